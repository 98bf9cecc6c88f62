"""Networks: backbones, GGNet and its variants, the detector around them."""

from ggnet.config import ModelConfig
from ggnet.models.backbone import Backbone
from ggnet.models.checkpointing import set_checkpointing
from ggnet.models.detector import Detector
from ggnet.models.dla import DLA34
from ggnet.models.ggnet import GGNet
from ggnet.models.hourglass import Hourglass104, HourglassNet
from ggnet.models.resdcn import ResDCN18, ResDCN34, ResDCN50, ResDCN101, ResDCN152
from ggnet.models.timm_backbone import PREFIX, TimmBackbone, timm_backbone
from ggnet.models.tiny import Tiny

__all__ = [
    "BACKBONES",
    "DLA34",
    "Backbone",
    "Detector",
    "GGNet",
    "Hourglass104",
    "HourglassNet",
    "ResDCN18",
    "ResDCN34",
    "ResDCN50",
    "ResDCN101",
    "ResDCN152",
    "TimmBackbone",
    "Tiny",
    "backbone_class",
    "build_model",
]

# What `model.backbone` may be, beside timm's networks.
BACKBONES: dict[str, type[Backbone]] = {
    "tiny": Tiny,
    "resdcn18": ResDCN18,
    "resdcn34": ResDCN34,
    "resdcn50": ResDCN50,
    "resdcn101": ResDCN101,
    "resdcn152": ResDCN152,
    "dla34": DLA34,
    "hourglass104": Hourglass104,
}


def backbone_class(name: str) -> type[Backbone]:
    """What `model.backbone` names: one of BACKBONES, or `timm:` and a name of timm's.

    Raises:
        ValueError: no such backbone, with the ones that there are; of timm, see `timm_backbone`.
    """
    if name.startswith(PREFIX):
        return timm_backbone(name.removeprefix(PREFIX))
    if name not in BACKBONES:
        names = ", ".join(f"'{known}'" for known in BACKBONES)
        raise ValueError(f"Input should be {names} or '{PREFIX}NAME'")
    return BACKBONES[name]


def build_model(config: ModelConfig, num_objects: int, num_verbs: int) -> GGNet:
    """The network that a configuration describes, freshly initialized.

    PPDM is `aggregation="interaction"` with `apm=False`.

    Raises:
        ValueError: switches that exclude each other.
    """
    model = GGNet(
        backbone_class(config.backbone).from_config(config),
        num_objects,
        num_verbs,
        aggregation=config.aggregation,
        gaze_steps=config.gaze_steps,
        points_per_step=config.points_per_step,
        shared_features=config.shared_features,
        apm=config.apm,
    )
    if config.checkpointing != "none":
        set_checkpointing(model.heads if config.checkpointing == "heads" else model)
    return model

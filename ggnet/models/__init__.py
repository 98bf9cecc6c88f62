"""Networks: backbones, GGNet and its variants, the detector around them."""

from ggnet.config import ModelConfig
from ggnet.models.detector import Detector
from ggnet.models.dla import DLA34
from ggnet.models.ggnet import GGNet
from ggnet.models.hourglass import HourglassNet, hourglass104
from ggnet.models.tiny import Tiny

__all__ = ["DLA34", "Detector", "GGNet", "HourglassNet", "Tiny", "build_model", "hourglass104"]


def build_model(config: ModelConfig, num_objects: int, num_verbs: int) -> GGNet:
    """The network that a configuration describes, freshly initialized.

    PPDM is `aggregation="interaction"` with `apm=False`.

    Raises:
        ValueError: switches that exclude each other.
    """
    if config.backbone == "tiny":
        backbone, head_channels = Tiny(config.width), config.width
    else:
        backbone = DLA34() if config.backbone == "dla34" else hourglass104()
        head_channels = 256
    return GGNet(
        backbone,
        num_objects,
        num_verbs,
        head_channels=head_channels,
        aggregation=config.aggregation,
        gaze_steps=config.gaze_steps,
        actpoints=config.actpoints,
        shared_features=config.shared_features,
        apm=config.apm,
    )

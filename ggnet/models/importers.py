"""Published weights of GGNet, PPDM, CenterNet, DLA and ResNet under this package's names.

The layers, their channel order and the offsets' (dy, dx) order are the originals'; two things
differ. Names: each published key is renamed by the rules below, and the result must be exactly
what the network has. Colors: all but ImageNet's weights were trained on BGR images, this
package feeds RGB, so the first convolution's input channels are turned around.

Key names as in the published code of GGNet (SherlockHolmes221/GGNet), PPDM (YueLiao/PPDM) and
CenterNet (xingyizhou/CenterNet).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ggnet.config import ModelConfig
from ggnet.errors import UserError
from ggnet.models import build_model

FIRST = "backbone.stem.0.0.weight"  # the convolution that reads the image
NAMED = 10  # keys that a message spells out

Rule = tuple[str, str | Callable[[re.Match], str]]

# Two convolutions with BatchNorm, in hourglass residuals and DLA blocks alike.
_BLOCK: tuple[Rule, ...] = (
    (r"\.conv1\.", ".body.0."),
    (r"\.bn1\.", ".body.1."),
    (r"\.conv2\.", ".body.3."),
    (r"\.bn2\.", ".body.4."),
)
_HEADS = {
    "hm": "heatmap",
    "wh": "size",
    "reg": "center_frac",
    "sub_offset": "human_offset",
    "obj_offset": "object_offset",
}
_HOURGLASS: tuple[Rule, ...] = (
    *((rf"^{theirs}\.(\d)\.0\.conv\.", rf"heads.\1.{ours}.0.") for theirs, ours in _HEADS.items()),
    *((rf"^{theirs}\.(\d)\.1\.", rf"heads.\1.{ours}.2.") for theirs, ours in _HEADS.items()),
    (r"^hm_rel\.(\d)\.0\.conv\.", r"heads.\1.interaction_feature.0."),
    (r"^hm_rel\.(\d)\.1\.", r"heads.\1.verbs.glance."),
    (r"^pre\.", "backbone.stem."),
    (r"^kps\.", "backbone.hourglasses."),
    (r"^cnvs\.", "backbone.features."),
    (r"^inters\.", "backbone.carry."),
    (r"^inters_\.", "backbone.carry_input."),
    (r"^cnvs_\.", "backbone.carry_feature."),
    (r"\.up1\.", ".skip."),
    (r"\.low1\.", ".down."),
    (r"\.low2(?=\.)", ".inner"),
    (r"\.low3\.", ".up."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
    *_BLOCK,
)


def _gaze(step: int, suffix: str) -> tuple[Rule, ...]:
    """A gaze step's feature convolution and its ActPoint aggregation."""
    return (
        (rf"^hm_dcn{suffix}\.(\d)\.conv\.", rf"heads.\1.verbs.features.{step}.0."),
        (
            rf"^refine_dcn{suffix}\.(\d)\.conv_offset_mask\.",
            rf"heads.\1.verbs.points.{step}.",
        ),
        (rf"^refine_dcn{suffix}\.(\d)\.", rf"heads.\1.verbs.aggregate.{step}."),
    )


def _last_gaze_head(step: int, name: str) -> tuple[Rule, ...]:
    return (
        (rf"^{name}\.(\d)\.0\.conv\.", rf"heads.\1.verbs.gaze.{step}.0."),
        (rf"^{name}\.(\d)\.1\.", rf"heads.\1.verbs.gaze.{step}.2."),
    )


_ONE_STEP = (*_gaze(0, ""), *_last_gaze_head(0, "refine_head"), *_HOURGLASS)
_TWO_STEPS = (
    *_gaze(0, "1"),
    *_gaze(1, "2"),
    (r"^refine_head1\.(\d)\.0\.", r"heads.\1.verbs.gaze.0."),
    *_last_gaze_head(1, "refine_head2"),
    *_HOURGLASS,
)
_DLA: tuple[Rule, ...] = (
    *((rf"^{theirs}\.(?=[02]\.)", f"heads.0.{ours}.") for theirs, ours in _HEADS.items()),
    (r"^hm_rel\.0\.", "heads.0.interaction_feature.0."),
    (r"^hm_rel\.2\.", "heads.0.verbs.glance."),
    (r"^base\.base_layer\.", "backbone.stem.0."),
    (r"^base\.level0\.", "backbone.stem.1."),
    (r"^base\.level1\.", "backbone.stem.2."),
    (r"^base\.level2\.", "backbone.levels.0."),
    (
        r"^base\.level([34])\.tree([12])\.",
        lambda match: f"backbone.levels.{int(match[1]) - 2}.trees.{int(match[2]) - 1}.",
    ),
    (r"^base\.level5\.", "backbone.levels.3.trees.0."),
    (r"\.tree1\.", ".first."),
    (r"\.tree2\.", ".second."),
    (r"\.root\.conv\.", ".root.0."),
    (r"\.root\.bn\.", ".root.1."),
    (r"^dla_up\.ida_(\d)\.", r"backbone.up.\1."),
    (r"^ida_up\.", "backbone.fuse."),
    (r"\.proj_(\d)\.", lambda match: f".project.{int(match[1]) - 1}."),
    (r"\.up_(\d)\.", lambda match: f".upsample.{int(match[1]) - 1}."),
    (r"\.node_(\d)\.", lambda match: f".merge.{int(match[1]) - 1}."),
    (r"\.conv\.conv_offset_mask\.", ".0.conv_offset."),
    (r"\.conv\.", ".0."),
    (r"\.actf\.0\.", ".1."),
    *_BLOCK,
)
_IMAGENET: tuple[Rule, ...] = ((r"^", "base."), *_DLA)
_RESNET: tuple[Rule, ...] = (
    *((rf"^{theirs}\.(?=[02]\.)", f"heads.0.{ours}.") for theirs, ours in _HEADS.items()),
    (r"^hm_rel\.0\.", "heads.0.interaction_feature.0."),
    (r"^hm_rel\.2\.", "heads.0.verbs.glance."),
    (r"^conv1\.", "backbone.stem.0.0."),
    (r"^bn1\.", "backbone.stem.0.1."),
    (r"^layer(\d)\.", lambda match: f"backbone.layers.{int(match[1]) - 1}."),
    (r"^deconv_layers\.", "backbone.upsample."),
    (r"\.conv_offset_mask\.", ".conv_offset."),
    (r"\.downsample\.", ".skip."),
    (r"\.conv3\.", ".body.6."),
    (r"\.bn3\.", ".body.7."),
    *_BLOCK,
)
# From deep to shallow: the keys that a depth is known by, which those below it do not have.
_RESNET_DEPTHS = {
    152: "layer3.35.conv3.weight",
    101: "layer3.22.conv3.weight",
    50: "layer3.5.conv3.weight",
    34: "layer3.5.conv2.weight",
    18: "layer3.1.conv2.weight",
}
_CLASSIFIER = {r"^(base\.)?fc\.(weight|bias)$": "ImageNet's classifier"}

# What the DLA-34 files carry and no output of the original network depends on.
_UNUSED = {
    **_CLASSIFIER,
    r"^(base\.)?level[34]\.project\.": "projection of a level of two trees, which has no reader",
}


@dataclass(frozen=True)
class PublishedNetwork:
    """A published network: how to know it, and how its keys are renamed."""

    title: str
    marks: tuple[str, ...]  # keys that of all sources only this and earlier-listed ones have
    rules: tuple[Rule, ...]
    model: dict[str, object]  # of `ModelConfig`
    unused: dict[str, str] = field(default_factory=dict)  # pattern of keys -> why they are left out
    covers: str = ""  # pattern of our keys that it fills; empty: all, a network ready to use
    bgr: bool = True


_PPDM = {"aggregation": "interaction", "gaze_steps": 0, "apm": False}
_DETECTION = r"^(backbone|heads\.\d\.(heatmap|size|center_frac))\."


def _on_resnet(depth: int, mark: str) -> Iterable[PublishedNetwork]:
    backbone = {"backbone": f"resdcn{depth}"}
    upsampled = "deconv_layers.0.weight"
    yield PublishedNetwork(
        f"PPDM, ResNet-{depth}",
        (mark, upsampled, "hm_rel.0.weight"),
        _RESNET,
        {**backbone, **_PPDM},
        _CLASSIFIER,
    )
    yield PublishedNetwork(
        f"CenterNet detection, ResNet-{depth}",
        (mark, upsampled),
        _RESNET,
        backbone,
        _CLASSIFIER,
        covers=_DETECTION,
    )
    yield PublishedNetwork(
        f"ResNet-{depth}, ImageNet",
        (mark, "conv1.weight", "fc.weight"),
        _RESNET,
        backbone,
        _CLASSIFIER,
        covers=r"^backbone\.(stem|layers)\.",
        bgr=False,
    )


PUBLISHED = (
    *(network for item in _RESNET_DEPTHS.items() for network in _on_resnet(*item)),
    PublishedNetwork(
        "GGNet, hourglass-104, two gaze steps",
        ("refine_dcn2.0.weight",),
        _TWO_STEPS,
        {"backbone": "hourglass104", "gaze_steps": 2},
    ),
    PublishedNetwork(
        "GGNet, hourglass-104, one gaze step",
        ("refine_dcn.0.weight",),
        _ONE_STEP,
        {"backbone": "hourglass104", "gaze_steps": 1},
    ),
    PublishedNetwork(
        "PPDM, hourglass-104",
        ("hm_rel.0.0.conv.weight",),
        _HOURGLASS,
        {"backbone": "hourglass104", **_PPDM},
    ),
    PublishedNetwork(
        "CenterNet detection, hourglass-104",
        ("kps.0.up1.0.conv1.weight",),
        _HOURGLASS,
        {"backbone": "hourglass104"},
        covers=_DETECTION,
    ),
    PublishedNetwork(
        "PPDM, DLA-34", ("hm_rel.0.weight",), _DLA, {"backbone": "dla34", **_PPDM}, _UNUSED
    ),
    PublishedNetwork(
        "CenterNet detection, DLA-34",
        ("dla_up.ida_0.proj_1.conv.weight",),
        _DLA,
        {"backbone": "dla34"},
        _UNUSED,
        covers=_DETECTION,
    ),
    PublishedNetwork(
        "DLA-34, ImageNet",
        ("base_layer.0.weight",),
        _IMAGENET,
        {"backbone": "dla34"},
        _UNUSED,
        covers=r"^backbone\.(stem|levels)\.",
        bgr=False,
    ),
)


@dataclass(frozen=True)
class Imported:
    """Published weights under this package's names."""

    source: PublishedNetwork
    model: ModelConfig
    num_objects: int | None  # None: the file has no detection head
    num_verbs: int | None  # None: the weights are for initialization only
    state: dict[str, Tensor]
    dropped: dict[str, str]  # published key -> why it is left out


def import_weights(published: Mapping[str, Tensor], origin: str) -> Imported:
    """Rename a published state dict; every key is used, listed as dropped, or an error.

    Args:
        published: the state dict, without "module." before its keys.
        origin: the file, for messages.

    Raises:
        UserError: none of PUBLISHED; keys that are unknown or missing; a shape that does not fit.
    """
    source = _recognize(published, origin)
    origins, dropped = rename(published, source)
    state = {name: published[key] for name, key in origins.items()}
    objects = _channels(state, "heads.0.heatmap.2.bias")
    verbs = None if source.covers else _channels(state, "heads.0.verbs.glance.bias")
    model = ModelConfig.model_validate(source.model)
    expected = _expected(model, objects or 1, verbs or 1, source.covers)
    _check_names(expected, origins, source, origin)
    _check_shapes(state, expected, origins, source, origin)
    state = {name: state.get(name, expected[name]) for name in expected}
    if source.bgr:
        state[FIRST] = state[FIRST].flip(1)
    return Imported(source, model, objects, verbs, state, dropped)


def rename(keys: Iterable[str], source: PublishedNetwork) -> tuple[dict[str, str], dict[str, str]]:
    """Our name -> published key, and published key -> reason for those that are left out.

    Raises:
        ValueError: two keys that get the same name.
    """
    origins: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for key in keys:
        reason = next((why for pattern, why in source.unused.items() if re.match(pattern, key)), "")
        if reason:
            dropped[key] = reason
            continue
        name = key
        for pattern, replacement in source.rules:
            name = re.sub(pattern, replacement, name)
        if name in origins:
            raise ValueError(f"'{key}' and '{origins[name]}' both become '{name}'")
        origins[name] = key
    return origins, dropped


def _recognize(published: Mapping[str, Tensor], origin: str) -> PublishedNetwork:
    source = next(
        (source for source in PUBLISHED if all(mark in published for mark in source.marks)), None
    )
    if source is None:
        known = "\n".join(f"  {source.title}" for source in PUBLISHED)
        first = ", ".join(list(published)[:3])
        raise UserError(f"{origin} has keys such as {first}; expected one of:\n{known}")
    return source


def _channels(state: Mapping[str, Tensor], bias: str) -> int | None:
    return len(state[bias]) if bias in state else None


def _expected(model: ModelConfig, objects: int, verbs: int, covers: str) -> dict[str, Tensor]:
    """Our tensors that the source fills; counters of BatchNorm have their value, 0."""
    with torch.device("meta"):
        state = build_model(model, objects, verbs).state_dict()
    return {
        name: torch.zeros((), dtype=value.dtype) if _is_counter(name) else value
        for name, value in state.items()
        if re.match(covers, name)
    }


def weights_size(source: PublishedNetwork, verbs: int) -> int:
    """Bytes of the weights of a published network that knows COCO's 80 classes."""
    expected = _expected(ModelConfig.model_validate(source.model), 80, verbs, source.covers)
    return sum(value.nbytes for value in expected.values())


def _is_counter(name: str) -> bool:
    """BatchNorm's number of batches: torch 0.4.0 had none, and nothing reads it here."""
    return name.endswith(".num_batches_tracked")


def _check_names(
    expected: Mapping[str, Tensor],
    origins: Mapping[str, str],
    source: PublishedNetwork,
    origin: str,
) -> None:
    problems = []
    if unknown := [origins[name] for name in origins if name not in expected]:
        problems.append(f"keys that this network does not have: {listed(unknown)}")
    missing = [name for name in expected if name not in origins and not _is_counter(name)]
    if missing:
        problems.append(f"nothing for {listed(missing)}")
    if problems:
        raise UserError(f"{origin} looks like {source.title}, but has " + "; ".join(problems))


def _check_shapes(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    origins: Mapping[str, str],
    source: PublishedNetwork,
    origin: str,
) -> None:
    wrong = [
        f"'{origins[name]}' has shape {tuple(value.shape)}, expected {tuple(expected[name].shape)}"
        for name, value in state.items()
        if value.shape != expected[name].shape
    ]
    if wrong:
        raise UserError(f"{origin} looks like {source.title}, but {listed(wrong)}")


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more

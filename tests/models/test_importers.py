"""Published weights arrive whole, in the right place, and give the published network's outputs."""

import re

import published
import pytest
import torch

from ggnet.errors import UserError
from ggnet.models import GGNet, HourglassNet, build_model
from ggnet.models.importers import PUBLISHED, import_weights, rename

DETECTION = {"hm": 80, "wh": 2, "reg": 2}
OURS = {
    "hm": "heatmap",
    "wh": "size",
    "reg": "center_frac",
    "sub_offset": "human_offset",
    "obj_offset": "object_offset",
}


def heads(verbs, apm):
    offsets = 2 * verbs if apm else 2
    return DETECTION | {"hm_rel": verbs, "sub_offset": offsets, "obj_offset": offsets}


def empty(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


COMPLETE = [
    ("GGNet, hourglass-104, one gaze step", published.hourglass(heads(117, True), 1), 117),
    ("GGNet, hourglass-104, one gaze step", published.hourglass(heads(25, True), 1), 25),
    ("GGNet, hourglass-104, two gaze steps", published.hourglass(heads(117, True), 2), 117),
    ("GGNet, hourglass-104, two gaze steps", published.hourglass(heads(25, True), 2), 25),
    ("PPDM, hourglass-104", published.hourglass(heads(117, False)), 117),
    ("PPDM, DLA-34", published.dla(heads(117, False)), 117),
    *(
        (f"PPDM, ResNet-{depth}", published.resnet_dcn(depth, heads(117, False)), 117)
        for depth in published.RESNETS
    ),
]


@pytest.mark.parametrize(("title", "shapes", "verbs"), COMPLETE)
def test_a_whole_network(title, shapes, verbs):
    found = import_weights(empty(shapes), "file.pth")
    assert found.source.title == title
    assert (found.num_objects, found.num_verbs) == (80, verbs)
    assert len(found.state) + len(found.dropped) == len(shapes)
    with torch.device("meta"):
        own = build_model(found.model, 80, verbs).state_dict()
    assert {k: v.shape for k, v in found.state.items()} == {k: v.shape for k, v in own.items()}


@pytest.mark.parametrize(
    ("title", "shapes", "covered"),
    [
        (
            "CenterNet detection, hourglass-104",
            published.hourglass(DETECTION),
            r"backbone|heads\.\d\.(heatmap|size|center_frac)",
        ),
        (
            "CenterNet detection, DLA-34",
            published.dla(DETECTION),
            r"backbone|heads\.\d\.(heatmap|size|center_frac)",
        ),
        ("DLA-34, ImageNet", published.dla_base(), r"backbone\.(stem|levels)"),
        (
            "CenterNet detection, ResNet-18",
            published.resnet_dcn(18, DETECTION),
            r"backbone|heads\.\d\.(heatmap|size|center_frac)",
        ),
        *(
            (f"ResNet-{depth}, ImageNet", published.resnet(depth), r"backbone\.(stem|layers)")
            for depth in published.RESNETS
        ),
    ],
)
def test_initial_weights(title, shapes, covered):
    found = import_weights(empty(shapes), "file.pth")
    assert found.source.title == title
    assert found.num_verbs is None
    assert len(found.state) + len(found.dropped) == len(shapes)
    with torch.device("meta"):
        own = build_model(found.model, 80, 3).state_dict()
    assert found.state.keys() == {name for name in own if re.match(covered, name)}


def test_what_is_left_out_is_named():
    found = import_weights(empty(published.dla(DETECTION)), "file.pth")
    modules = {key.rsplit(".", 2 if "project" in key else 1)[0] for key in found.dropped}
    assert modules == {"base.fc", "base.level3.project", "base.level4.project"}
    assert found.dropped["base.fc.weight"] == "ImageNet's classifier"


@pytest.mark.parametrize("gaze", [0, 1, 2])
def test_hourglass_outputs_are_the_original_ones(gaze):
    """A small hourglass through the same rules: its outputs, computed from the published names."""
    channels, blocks, verbs = (16, 16, 24, 32), (2, 1, 2, 3), 5
    shapes = published.hourglass(heads(verbs, gaze > 0) | {"hm": 4}, gaze, channels, blocks)
    weights = published.fill(shapes)
    source = next(source for source in PUBLISHED if source.marks[0] in weights)
    origins, _ = rename(weights, source)
    model = GGNet(
        HourglassNet(channels, blocks, stacks=2),
        4,
        verbs,
        aggregation="gaze" if gaze else "interaction",
        gaze_steps=gaze,
        points_per_step=25,
        shared_features=False,
        apm=gaze > 0,
    ).double()
    model.load_state_dict({name: weights[key] for name, key in origins.items()})
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    theirs = published.Net(weights).ggnet(image, gaze)
    with torch.no_grad():
        ours = model.eval()(image)
        features = model.backbone(image)
        glance = model.heads[1].verbs.glance(model.heads[1].interaction_feature(features[1]))
    for name, our_name in OURS.items():
        torch.testing.assert_close(ours[our_name], theirs[name])
    torch.testing.assert_close(glance, theirs["hm_rel"])
    torch.testing.assert_close(ours["interaction"], theirs[f"gaze{gaze}" if gaze else "hm_rel"])


def test_dla_outputs_are_the_original_ones_on_the_mirrored_colors():
    weights = published.fill(published.dla(heads(117, False)))
    found = import_weights(weights, "file.pth")
    model = build_model(found.model, 80, 117).double().eval()
    model.load_state_dict(found.state)
    bgr = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(1)).double()
    theirs = published.Net(weights).dla(bgr)
    with torch.no_grad():
        ours = model(bgr.flip(1))
    for name, our_name in (OURS | {"hm_rel": "interaction"}).items():
        torch.testing.assert_close(ours[our_name], theirs[name])


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_outputs_are_the_original_ones_on_the_mirrored_colors(depth):
    weights = published.fill(published.resnet_dcn(depth, heads(117, False)))
    found = import_weights(weights, "file.pth")
    model = build_model(found.model, 80, 117).double().eval()
    model.load_state_dict(found.state)
    bgr = torch.randn(1, 3, 64, 32, generator=torch.Generator().manual_seed(1)).double()
    theirs = published.Net(weights).resnet_dcn(bgr)
    with torch.no_grad():
        ours = model(bgr.flip(1))
    assert theirs["hm"].std() > 1e-3
    for name, our_name in (OURS | {"hm_rel": "interaction"}).items():
        torch.testing.assert_close(ours[our_name], theirs[name])


@pytest.mark.parametrize(
    ("shapes", "first"), [(published.dla_base(), "base_layer.0"), (published.resnet(18), "conv1")]
)
def test_imagenet_weights_keep_their_colors(shapes, first):
    weights = published.fill(shapes, dtype=torch.float32)
    state = import_weights(weights, "file.pth").state
    assert torch.equal(state["backbone.stem.0.0.weight"], weights[f"{first}.weight"])


def test_without_counters_of_batches():
    shapes = published.dla(DETECTION)
    old = {k: v for k, v in empty(shapes).items() if not k.endswith("num_batches_tracked")}
    found = import_weights(old, "file.pth")
    assert found.state["backbone.stem.0.1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hm.1.1.bias": None}, r"nothing for heads\.1\.heatmap\.2\.bias"),
        ({"hps.0.0.weight": (2,)}, r"keys that this network does not have: hps\.0\.0\.weight"),
        (
            {"wh.0.1.weight": (4, 256, 1, 1)},
            r"'wh\.0\.1\.weight' has shape \(4, 256, 1, 1\), expected \(2, 256, 1, 1\)",
        ),
    ],
)
def test_a_key_too_few_too_many_or_of_another_shape(change, message):
    shapes = published.hourglass(DETECTION) | change
    weights = empty({name: shape for name, shape in shapes.items() if shape is not None})
    with pytest.raises(UserError, match=message):
        import_weights(weights, "file.pth")


def test_networks_that_are_not_known():
    with pytest.raises(UserError, match="keys such as a, b; expected one of"):
        import_weights({"a": torch.ones(1), "b": torch.ones(1)}, "other.pth")
    three_levels = published.dla(heads(117, False)) | {"hm_rel.0.weight": (256, 192, 3, 3)}
    with pytest.raises(UserError, match=r"'hm_rel\.0\.weight' has shape \(256, 192, 3, 3\)"):
        import_weights(empty(three_levels), "dla3level.pth")

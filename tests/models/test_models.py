import copy

import pytest
import torch
from tolerances import NETWORK
from torch import nn

from ggnet import reference
from ggnet.config import LossConfig, ModelConfig, load_config
from ggnet.errors import UserError
from ggnet.models import BACKBONES, DLA34, GGNet, HourglassNet, build_model
from ggnet.nn import GGNetLoss

OBJECTS, VERBS = 4, 5
SWITCHES = [
    *({"gaze_steps": steps, "apm": apm} for steps in range(4) for apm in (True, False)),
    {"gaze_steps": 3, "shared_features": True},
    {"gaze_steps": 2, "points_per_step": 9},
    {"gaze_steps": 1, "points_per_step": 49},
    {"aggregation": "interaction", "apm": False},
    {"aggregation": "interaction", "apm": True},
    {"aggregation": "actpoints", "apm": False},
    {"aggregation": "actpoints", "apm": True},
    {"aggregation": "interaction+human", "apm": False},
    {"aggregation": "interaction+object", "apm": False},
    {"aggregation": "interaction+human+object", "apm": False},
]
HEADS = {
    "aggregation": "gaze",
    "gaze_steps": 1,
    "points_per_step": 9,
    "shared_features": False,
    "apm": True,
}
by_switches = pytest.mark.parametrize(
    "switches", SWITCHES, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items())
)


def build(**switches) -> GGNet:
    torch.manual_seed(0)
    return build_model(ModelConfig(width=16, **switches), OBJECTS, VERBS)


def scatter_points(model: nn.Module) -> GGNet:
    """Zero-initialized point convolutions would hide mistakes: make them point somewhere."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "points" in name or "conv_offset" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def idle(module: nn.Module) -> list[str]:
    """Parameters that the backward pass left without gradient."""
    return [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]


def parameters(module: nn.Module) -> float:
    """Their number in millions."""
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def gaze_maps(switches: dict) -> int:
    """The number of gaze maps that these switches ask for."""
    return switches.get("gaze_steps", 2) if "aggregation" not in switches else 0


@by_switches
def test_shapes(switches):
    model = build(**switches)
    images = torch.randn(2, 3, 32, 48)
    offset_channels = 2 * VERBS if switches.get("apm", True) else 2
    common = {
        "heatmap": (2, OBJECTS, 8, 12),
        "size": (2, 2, 8, 12),
        "center_frac": (2, 2, 8, 12),
        "human_offset": (2, offset_channels, 8, 12),
        "object_offset": (2, offset_channels, 8, 12),
    }
    steps = gaze_maps(switches)
    (trained,) = model.train()(images)
    evaluated = model.eval()(images)
    for name, shape in common.items():
        assert trained[name].shape == shape
        assert evaluated[name].shape == shape
    assert [tuple(m.shape) for m in trained["interaction"]] == [(2, VERBS, 8, 12)] * (steps + 1)
    assert evaluated["interaction"].shape == (2, VERBS, 8, 12)
    taps = switches.get("points_per_step", 25)
    count = 1 if switches.get("aggregation") == "actpoints" else steps
    assert [tuple(p.shape) for p in evaluated["actpoints"]] == [(2, 3 * taps, 8, 12)] * count
    auxiliary = {f"{source}_verbs" for source in ("human", "object")}
    read = {f"{s}_verbs" for s in switches.get("aggregation", "").split("+")} & auxiliary
    assert set(trained) == {*common, "interaction", *read}
    assert set(evaluated) == {*common, "interaction", "actpoints"}


@by_switches
def test_every_parameter_learns(switches, make_batch):
    """DistributedDataParallel fails on a parameter without gradient."""
    model = scatter_points(build(**switches)).train()
    batch = make_batch()
    total, _ = GGNetLoss(LossConfig())(model(batch.images), batch)
    total.backward()
    assert idle(model) == []


@by_switches
def test_evaluation_gives_the_last_training_maps(switches):
    model = scatter_points(build(**switches)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        (trained,) = model(images)
        evaluated = model.eval()(images)
    for name, map_ in evaluated.items():
        if name == "interaction":
            assert torch.equal(map_, trained["interaction"][-1])
        elif name != "actpoints":
            assert torch.equal(map_, trained[name])


@pytest.mark.parametrize("steps", range(4))
def test_evaluation_runs_only_what_the_last_step_needs(steps):
    torch.manual_seed(0)
    backbone = HourglassNet(channels=(16, 16), blocks=(1, 1), stacks=2)
    model = GGNet(backbone, OBJECTS, VERBS, **HEADS | {"gaze_steps": steps})
    layers = {
        name: module
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    ran = set()
    for name, layer in layers.items():
        layer.register_forward_hook(lambda *_, name=name: ran.add(name))
    model.eval()(torch.randn(1, 3, 32, 32))
    unneeded = ["heads.0."]  # the first stack's
    if steps:
        unneeded.append("heads.1.verbs.glance")
    unneeded += [f"heads.1.verbs.gaze.{step}" for step in range(steps - 1)]
    assert set(layers) - ran == {n for n in layers if n.startswith(tuple(unneeded))}
    model.train()(torch.randn(2, 3, 32, 32))
    assert ran == set(layers)


def test_gaze_steps_add_up_offsets():
    """Each step against its definition: own weights, offsets on top of all earlier ones."""
    model = scatter_points(build(gaze_steps=3)).eval()
    heads = model.heads[0]
    with torch.no_grad():
        (feature,) = model.backbone(torch.randn(1, 3, 32, 32))
        outputs = heads(feature)
        gazed, base = heads.interaction_feature(feature), 0
        for step, actpoints in enumerate(outputs["actpoints"]):
            points = heads.verbs.points[step](gazed)
            points[:, :50] += base
            torch.testing.assert_close(actpoints, points)
            layer = heads.verbs.aggregate[step]
            gazed = reference.actpoint_aggregate(
                heads.verbs.features[step](feature), points, layer.weight, layer.bias, relu=True
            )
            base = points[:, :50]
        torch.testing.assert_close(outputs["interaction"], heads.verbs.gaze[2](gazed))


def test_last_map_teaches_the_first_offsets():
    """The published code does not cut the gradient at the handed-on offsets."""
    model = build(gaze_steps=2)
    # With the later points still at zero weight, the shared offset is the only way back.
    (outputs,) = model.train()(torch.randn(2, 3, 32, 32))
    outputs["interaction"][-1].square().sum().backward()
    first, second = model.heads[0].verbs.points
    assert first.weight.grad[:50].abs().sum() > 0
    assert first.weight.grad[50:].abs().sum() == 0
    assert second.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("aggregation", ["interaction+human", "interaction+human+object"])
def test_a_joined_map_begins_as_a_convolution_of_all_its_inputs(aggregation):
    verbs = build(aggregation=aggregation, apm=False).heads[0].verbs
    inputs = 1 + len(verbs.join_sources)
    bound = 1 / (inputs * verbs.join.in_channels) ** 0.5
    for weight in (verbs.join.weight, *verbs.join_sources.values()):
        assert 0.95 * bound < weight.max() <= bound
        assert -bound <= weight.min() < -0.95 * bound
    assert verbs.join.bias.abs().max() <= bound


def test_pair_points_read_the_predicted_centers():
    """With constant offsets the human branch is read at a shifted cell, as one concatenation."""
    model = build(aggregation="interaction+human", apm=False).eval()
    heads, verbs = model.heads[0], model.heads[0].verbs
    nn.init.zeros_(heads.human_offset[-1].weight)
    heads.human_offset[-1].bias.data = torch.tensor([2.0, -1.0])  # interaction - center, (x, y)
    with torch.no_grad():
        (feature,) = model.backbone(torch.randn(1, 3, 32, 32))
        outputs = heads(feature)
        branch = verbs.branches["human"](feature)
        read = torch.zeros_like(branch)
        read[:, :, :-1, 2:] = branch[:, :, 1:, :-2]  # center = cell + (-2, +1)
        joined = torch.cat([heads.interaction_feature(feature), read], dim=1)
        weight = torch.cat([verbs.join.weight, verbs.join_sources["human"]], dim=1)
        joined = nn.functional.conv2d(joined, weight, verbs.join.bias).relu()
        torch.testing.assert_close(outputs["interaction"], verbs.score(joined))


@pytest.mark.parametrize("source", ["human", "object"])
def test_features_at_a_pairs_point_do_not_teach_where_it_is(source):
    """The published code cuts the gradient there; the other losses teach the offsets."""
    model = build(aggregation="interaction+human+object", apm=False).train()
    (outputs,) = model(torch.randn(1, 3, 32, 32))
    outputs["interaction"][-1].square().sum().backward()
    heads = model.heads[0]
    for parameter in getattr(heads, f"{source}_offset").parameters():
        assert parameter.grad is None or not parameter.grad.any()
    assert heads.verbs.branches[source][0].weight.grad.abs().sum() > 0


# Measured on the original networks.
@pytest.mark.parametrize(
    ("verbs", "switches", "millions"),
    [
        (117, {"gaze_steps": 2}, 206.2),
        (117, {"gaze_steps": 1}, 200.7),
        (25, {"gaze_steps": 2}, 205.8),
        (117, {"aggregation": "interaction", "apm": False}, 194.9),
    ],
)
def test_hourglass_has_the_published_size(verbs, switches, millions):
    with torch.device("meta"):
        model = build_model(ModelConfig(backbone="hourglass104", **switches), 80, verbs)
    assert parameters(model) == pytest.approx(millions, abs=0.05)
    assert parameters(model.backbone) == pytest.approx(187.7, abs=0.05)


def test_hourglass_shapes():
    with torch.device("meta"):
        model = build_model(ModelConfig(backbone="hourglass104"), OBJECTS, VERBS)
        outs = model.train()(torch.empty(1, 3, 128, 256))
    assert [len(out["interaction"]) for out in outs] == [3, 3]
    assert all(out["heatmap"].shape == (1, OBJECTS, 32, 64) for out in outs)


def test_hourglass_stacks_feed_each_other():
    backbone = HourglassNet(channels=(16, 16, 24), blocks=(2, 1, 2), stacks=3)
    features = backbone(torch.randn(2, 3, 32, 32))
    assert [tuple(feature.shape) for feature in features] == [(2, 16, 8, 8)] * 3
    features[-1].square().sum().backward()
    assert idle(backbone) == []


# Published by torchvision, its classifier of 1000 classes included.
@pytest.mark.parametrize(
    ("depth", "published"),
    [(18, 11689512), (34, 21797672), (50, 25557032), (101, 44549160), (152, 60192808)],
)
def test_resdcn_has_the_published_size(depth, published):
    with torch.device("meta"):
        backbone = BACKBONES[f"resdcn{depth}"]()
    deep = 512 if depth < 50 else 2048
    resnet = sum(p.numel() for part in (backbone.stem, backbone.layers) for p in part.parameters())
    assert resnet + 1000 * deep + 1000 == published
    assert sum(p.numel() for p in backbone.parameters()) - resnet == sum(
        9 * into * out + out + 27 * (9 * into + 1) + 16 * out * out + 4 * out
        for into, out in ((deep, 256), (256, 128), (128, 64))
    )


def test_resdcn_learns_everywhere():
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="resdcn18", gaze_steps=1), OBJECTS, VERBS)
    (outputs,) = model.train()(torch.randn(2, 3, 64, 64))
    assert outputs["interaction"][-1].shape == (2, VERBS, 16, 16)
    sum(out.square().sum() for out in outputs["interaction"]).backward()
    assert idle(model.backbone) == []


def test_dla34():
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone="dla34", gaze_steps=1), OBJECTS, VERBS)
    (outputs,) = model.train()(torch.randn(2, 3, 64, 64))
    assert outputs["interaction"][-1].shape == (2, VERBS, 16, 16)
    sum(out.square().sum() for out in outputs["interaction"]).backward()
    assert idle(model.backbone) == []


def test_dla34_upsampling_starts_bilinear():
    upsample = DLA34().fuse.upsample[1]
    ramp = torch.arange(8.0).expand(1, 64, 8, 8)
    expected = nn.functional.interpolate(ramp, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(upsample(ramp)[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4])


def test_wrong_image_size_says_what_fits():
    with pytest.raises(ValueError, match="30 x 32; Tiny needs .* multiples of 8"):
        build()(torch.zeros(1, 3, 30, 32))


def test_switches_that_exclude_each_other():
    with pytest.raises(ValueError, match="interaction\\+human.*apm=False"):
        build(aggregation="interaction+human", apm=True)


def test_channels_last_changes_nothing():
    model = scatter_points(build()).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        contiguous = model(images)
        model.to(memory_format=torch.channels_last)
        outputs = model(images.contiguous(memory_format=torch.channels_last))
    assert outputs["interaction"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(outputs, contiguous, **NETWORK)


def test_compiles_and_exports_whole():
    model = scatter_points(build()).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images)
        compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), expected)
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images), expected)


def test_glance_parameters():
    """Those before the glance map, and none where that map is the prediction."""
    model = build(gaze_steps=2)
    named = {id(p): n for n, p in model.named_parameters()}
    names = {named[id(p)].rsplit(".", 1)[0] for p in model.glance_parameters()}
    assert names == {"heads.0.interaction_feature.0", "heads.0.verbs.glance"}
    assert build(gaze_steps=0).glance_parameters() == []
    assert build(aggregation="actpoints").glance_parameters() == []


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_are_what_they_declare(name):
    declared = BACKBONES[name]
    height, width = declared.size_multiple, 2 * declared.size_multiple
    with torch.device("meta"):
        backbone = declared.from_config(ModelConfig(width=48))
        features = backbone(torch.empty(2, 3, height, width))
    assert backbone.size_multiple == declared.size_multiple
    shape = (2, backbone.out_channels, height // declared.stride, width // declared.stride)
    assert [tuple(feature.shape) for feature in features] == [shape] * declared.stacks
    model = GGNet(backbone, OBJECTS, VERBS, **HEADS)
    assert model.heads[0].size[0].out_channels == backbone.head_channels
    settings = [f"model.backbone={name}"]
    load_config(None, [*settings, f"data.input_size=[{height}, {width}]"])
    with pytest.raises(UserError, match=f"{name} needs multiples of {declared.size_multiple}"):
        load_config(None, [*settings, f"data.input_size=[{height // 2}, {width}]"])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_convolution_that_onednn_computes_beyond_its_workspace(backbone):
    """See models/tiny.py: training would corrupt memory, and only sometimes crash."""
    with torch.device("meta"):
        model = build_model(ModelConfig(width=16, backbone=backbone), OBJECTS, VERBS)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    strided = [c for c in convolutions if c.kernel_size == (1, 1) and c.stride != (1, 1)]
    assert convolutions
    assert all(c.in_channels >= 16 for c in strided)

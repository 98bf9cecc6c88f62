"""torchvision's and mmcv's layers: their constructors, their state dicts, what they compute."""

import pytest
import torch
import torch.nn.functional as F
from op_testing import assert_close, randn
from tolerances import NETWORK

from ggnet.models.blocks import DeformNode
from ggnet.nn import DeformConv2d, DeformConv2dPack, ModulatedDeformConv2dPack

PACKS = {ModulatedDeformConv2dPack: 3, DeformConv2dPack: 2}
GEOMETRIES = {
    "plain": {"kernel_size": 3, "padding": 1},
    "rectangle": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
    "groups": {"kernel_size": 3, "padding": 1, "groups": 2},
    "offset groups": {"kernel_size": 3, "padding": 1, "stride": 2, "deform_groups": 4},
    "both": {"kernel_size": 1, "groups": 4, "deform_groups": 2},
}
by_pack = pytest.mark.parametrize("pack", PACKS)


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def mmcv_state(pack, channels, outputs, *, kernel_size, groups=1, deform_groups=1, **_):
    """What a checkpoint of mmcv has of such a layer."""
    kh, kw = pair(kernel_size)
    maps = PACKS[pack] * deform_groups * kh * kw
    state = {
        "weight": randn(outputs, channels // groups, kh, kw, seed=1),
        "bias": randn(outputs, seed=2),
        "conv_offset.weight": randn(maps, channels, kh, kw, seed=3, scale=0.3),
        "conv_offset.bias": randn(maps, seed=4),
    }
    if pack is DeformConv2dPack:
        del state["bias"]
    return state


def mmcv_forward(
    state, x, *, kernel_size, stride=1, padding=0, dilation=1, groups=1, deform_groups=1
):
    """mmcv's forward, tap by tap with grid_sample."""
    steps = pair(stride), pair(padding), pair(dilation)
    maps = F.conv2d(x, state["conv_offset.weight"], state["conv_offset.bias"], *steps)
    taps = state["weight"][0, 0].numel()
    if maps.shape[1] == 3 * deform_groups * taps:
        first, second, logits = maps.chunk(3, dim=1)
        offset, mask = torch.cat([first, second], dim=1), logits.sigmoid()
    else:
        offset, mask = maps, maps.new_ones(maps[:, ::2].shape)
    (height, width), (out_h, out_w) = x.shape[2:], maps.shape[2:]
    (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w) = steps
    rows = torch.arange(out_h, dtype=x.dtype)[:, None] * stride_h - pad_h
    columns = torch.arange(out_w, dtype=x.dtype) * stride_w - pad_w
    of_group = []
    for group, part in enumerate(x.chunk(deform_groups, dim=1)):
        sampled = []
        for tap in range(taps):
            i, j = divmod(tap, pair(kernel_size)[1])
            at = group * taps + tap
            y = rows + i * dilation_h + offset[:, 2 * at]
            x_ = columns + j * dilation_w + offset[:, 2 * at + 1]
            grid = torch.stack([2 * x_ / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=3)
            sampled.append(F.grid_sample(part, grid, align_corners=True) * mask[:, at, None])
        of_group.append(torch.stack(sampled, dim=2))
    samples = torch.cat(of_group, dim=1)  # (B, C, K, Ho, Wo)
    outputs = [
        torch.einsum("bckyx,ock->boyx", part, weight.flatten(2))
        for part, weight in zip(
            samples.chunk(groups, dim=1), state["weight"].chunk(groups), strict=True
        )
    ]
    return torch.cat(outputs, dim=1) + state.get("bias", torch.zeros(1)).view(-1, 1, 1)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@by_pack
def test_a_checkpoint_of_mmcv_loads_and_computes_the_same(pack, geometry):
    settings = GEOMETRIES[geometry]
    layer = pack(8, 12, **settings).double()
    state = mmcv_state(pack, 8, 12, **settings)
    assert list(layer.state_dict()) == list(state)
    layer.load_state_dict(state)
    x = randn(2, 8, 9, 11)
    expected = mmcv_forward(state, x, **settings)
    for dtype in (torch.float64, torch.float32):
        assert_close("output", layer.to(dtype)(x.to(dtype)), expected, dtype, factor=10)  # 2 layers


@by_pack
def test_a_pack_starts_as_a_convolution(pack):
    layer = pack(6, 4, 5, 1, 4, 2)
    x = randn(2, 6, 8, 8).float()
    weight = layer.weight / (2 if pack is ModulatedDeformConv2dPack else 1)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, None, 1, 4, 2), **NETWORK)


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda: ModulatedDeformConv2dPack(16, 64, 5, groups=2), 1 / (16 * 25) ** 0.5),
        (lambda: DeformConv2dPack(16, 64, 5, groups=2), (6 / (8 * 25)) ** 0.5),
        (lambda: DeformConv2d(16, 64, 5, groups=2), 1 / (8 * 25) ** 0.5),
    ],
)
def test_initial_weights_as_published(make, bound):
    weight = make().weight
    assert 0.99 * bound < weight.abs().max() <= bound


def test_the_nodes_of_dla_are_mmcvs_dcnv2():
    state = mmcv_state(ModulatedDeformConv2dPack, 4, 6, kernel_size=3)
    node = DeformNode(4, 6).eval()
    node[0].load_state_dict(state)
    x = randn(1, 4, 8, 8)
    expected = mmcv_forward(state, x, kernel_size=3, padding=1).relu() / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(node(x.float()).double(), expected, **NETWORK)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_begins_as_torchs_convolution(bias):
    torch.manual_seed(0)
    expected = torch.nn.Conv2d(4, 6, (3, 5), groups=2, bias=bias).state_dict()
    torch.manual_seed(0)
    mine = DeformConv2d(4, 6, (3, 5), groups=2, bias=bias).state_dict()
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[name], value) for name, value in expected.items())


def test_a_layer_says_what_it_is():
    assert repr(DeformConv2d(4, 6, 3)) == "DeformConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1))"
    layer = DeformConv2d(4, 6, 3, 2, padding=1, dilation=2, groups=2, bias=False)
    assert repr(layer) == (
        "DeformConv2d(4, 6, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), dilation=(2, 2), "
        "groups=2, bias=False)"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3},
        {"kernel_size": (1, 3), "stride": 2, "padding": (0, 1), "dilation": (1, 2), "bias": False},
        {"kernel_size": 3, "groups": 2},
    ],
)
def test_torchvisions_layer(settings):
    try:
        from torchvision import ops as theirs
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import: {error}")
    torch.manual_seed(0)
    original = theirs.DeformConv2d(4, 6, **settings)
    torch.manual_seed(0)
    layer = DeformConv2d(4, 6, **settings)
    assert repr(layer) == repr(original)
    for (name, value), (other, expected) in zip(
        layer.state_dict().items(), original.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(value, expected)
    layer.load_state_dict(original.state_dict())
    x = randn(2, 4, 8, 9).float()
    out = F.conv2d(
        x, layer.weight.new_zeros(1, 4, *layer.kernel_size), None, layer.stride, layer.padding,
        layer.dilation,
    ).shape[2:]  # fmt: skip
    taps = layer.weight[0, 0].numel()
    offset, mask = randn(2, 2 * taps, *out, seed=1).float(), randn(2, taps, *out, seed=2).float()
    torch.testing.assert_close(layer(x, offset), original(x, offset), **NETWORK)
    torch.testing.assert_close(layer(x, offset, mask), original(x, offset, mask), **NETWORK)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DeformConv2d(4, 6, 3, groups=4), "groups is 4.*divisor of out_channels.*6"),
        (lambda: DeformConv2d(5, 6, 3, groups=3), "groups is 3.*divisor of in_channels.*5"),
        (lambda: DeformConv2dPack(4, 6, 3, deform_groups=3), "deform_groups is 3.*in_channels"),
        (lambda: ModulatedDeformConv2dPack(4, 6, 3, groups=0), "groups is 0"),
    ],
)
def test_groups_that_do_not_divide(make, says):
    with pytest.raises(ValueError, match=says):
        make()

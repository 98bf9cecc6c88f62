import pytest
import torch
import torch.nn.functional as F
from op_testing import (
    DTYPES,
    assert_close,
    assert_same_bits,
    compare_with_reference,
    isas,
    randn,
    spoil,
    value_and_gradients,
)

from ggnet import ops, reference

# batch, channels, outputs, height, width, kernel
SHAPES = [
    (1, 1, 1, 1, 1, 3),
    (0, 4, 3, 6, 6, 3),
    (2, 5, 7, 9, 6, 3),
    (1, 3, 2, 1, 11, 5),
    (3, 16, 9, 5, 13, 5),
    (1, 33, 18, 7, 4, 7),
    (2, 24, 40, 12, 11, 5),
]
SATURATED = 60.0  # sigmoid of it is 1 in every dtype


def inputs(shape, bias=True, base=True, spread=2.0):
    """features, points, weight, bias, base_offset in float64; some points are far outside."""
    batch, channels, outputs, height, width, k = shape
    taps = k * k
    points = randn(batch, 3 * taps, height, width, seed=1, scale=spread)
    if points.numel() > 1000:
        points[:, : 2 * taps] = spoil(points[:, : 2 * taps].contiguous())
    return [
        randn(batch, channels, height, width, seed=2),
        points,
        randn(outputs, channels, k, k, seed=3, scale=(channels * taps) ** -0.5),
        randn(outputs, seed=4) if bias else None,
        randn(batch, 2 * taps, height, width, seed=5) if base else None,
    ]


@pytest.mark.interpreted(
    {"shape": SHAPES[0]},
    {"shape": SHAPES[1]},
    {"shape": SHAPES[2], "dtype": torch.float32},
    {"shape": SHAPES[2], "dtype": torch.bfloat16},
    {"shape": SHAPES[3], "dtype": torch.float64},
    {"shape": SHAPES[3], "dtype": torch.float16},
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(shape, dtype):
    for relu in (False, True):
        compare_with_reference(
            lambda *t, relu=relu: ops.actpoint_aggregate(*t, relu=relu),
            lambda *t, relu=relu: reference.actpoint_aggregate(*t, relu=relu),
            inputs(shape),
            dtype,
        )


@pytest.mark.interpreted({"base": True, "bias": False}, {"base": False, "bias": True})
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("base", [False, True])
def test_optional_arguments(bias, base):
    compare_with_reference(
        ops.actpoint_aggregate,
        reference.actpoint_aggregate,
        inputs(SHAPES[2], bias, base),
        torch.float32,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_last_is_kept(dtype):
    compare_with_reference(
        ops.actpoint_aggregate,
        reference.actpoint_aggregate,
        inputs(SHAPES[4]),
        dtype,
        torch.channels_last,
    )


@pytest.mark.interpreted
def test_gradients_have_the_memory_format_of_their_tensors():
    tensors = inputs(SHAPES[2])
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    _, grads = value_and_gradients(lambda *t: ops.actpoint_aggregate(*t).square().sum(), tensors)
    assert grads[0].is_contiguous(memory_format=torch.channels_last)
    assert grads[1].is_contiguous()


@pytest.mark.interpreted
def test_the_gradient_of_a_slice_is_contiguous():
    features, *others = inputs(SHAPES[2])
    part = torch.cat([features, features], dim=3).requires_grad_()[..., : features.shape[3]]
    (grad,) = torch.autograd.grad(ops.actpoint_aggregate(part, *others).sum(), part)
    assert grad.is_contiguous()


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype, monkeypatch):
    monkeypatch.setenv("GGNET_CPU_ISA", isa)
    compare_with_reference(
        lambda *t: ops.actpoint_aggregate(*t, relu=True),
        lambda *t: reference.actpoint_aggregate(*t, relu=True),
        inputs(SHAPES[-1]),
        dtype,
    )


def test_non_contiguous_arguments():
    tensors = [t.float() for t in inputs(SHAPES[4])]
    strided = [torch.stack([t, t], dim=-1)[..., 0] for t in tensors]
    assert not strided[0].is_contiguous()
    got, got_grads = value_and_gradients(
        lambda *t: ops.actpoint_aggregate(*t).square().sum(), strided
    )
    want, want_grads = value_and_gradients(
        lambda *t: ops.actpoint_aggregate(*t).square().sum(), tensors
    )
    assert_close("output", got, want.double(), torch.float32)
    for i, (one, other) in enumerate(zip(got_grads, want_grads, strict=True)):
        assert_close(f"gradient {i}", one, other.double(), torch.float32)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_slices_of_channels_last_tensors(dtype, isa, monkeypatch):
    """Channels adjacent, pixels not, at any offset from a vector's boundary."""
    monkeypatch.setenv("GGNET_CPU_ISA", isa)
    wide = [t.to(dtype) for t in inputs(SHAPES[4])]
    for first, count in ((0, 8), (1, 7), (3, 13), (5, 1)):
        features = wide[0].contiguous(memory_format=torch.channels_last)[:, first : first + count]
        weight = wide[2].contiguous(memory_format=torch.channels_last)[:, first : first + count]
        for crop in (slice(None), slice(1, None)):
            tensors = [
                features[:, :, crop],
                wide[1][:, :, crop],
                weight,
                wide[3],
                wide[4][:, :, crop],
            ]
            grad_output = randn(3, 12, 5, 13, seed=6).to(dtype)
            grad_output = grad_output.contiguous(memory_format=torch.channels_last)
            grad_output = grad_output[:, 2:11, crop]
            leaves = [t.detach().requires_grad_() for t in tensors]
            output = ops.actpoint_aggregate(*leaves)
            output.backward(grad_output)
            doubles = [t.detach().double().requires_grad_() for t in tensors]
            exact = reference.actpoint_aggregate(*doubles)
            exact.backward(grad_output.double())
            assert_close("output", output, exact, dtype)
            for leaf, double in zip(leaves, doubles, strict=True):
                assert_close("gradient", leaf.grad, double.grad, dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(1, 64, 33), (1, 100, 16), (2, 66, 40), (1, 70, 64), (1, 200, 9)],  # 2 to 4 sections
)
def test_maps_of_many_tiles(batch, height, width, layout):
    """The backward cuts an image of 16 tiles and more into sections, whose gradients of the rows
    that several meet are added up; far offsets meet all rows. In float64: of so many offsets some
    would be rounded to the other side of a cell's edge, where the gradient jumps."""
    for spread in (2.0, 30.0):
        compare_with_reference(
            lambda *t: ops.actpoint_aggregate(*t, relu=True),
            lambda *t: reference.actpoint_aggregate(*t, relu=True),
            inputs((batch, 5, 3, height, width, 3), spread=spread),
            torch.float64,
            layout,
        )


def test_points_on_the_regular_grid_are_a_convolution():
    features, _, weight, bias, _ = inputs(SHAPES[4])
    points = torch.zeros(3, 75, *features.shape[2:], dtype=torch.float64)
    points[:, 50:] = SATURATED
    got, grads = value_and_gradients(
        lambda f, w, b: ops.actpoint_aggregate(f, points, w, b).square().sum(),
        [features, weight, bias],
    )
    want, wanted = value_and_gradients(
        lambda f, w, b: F.conv2d(f, w, b, padding=2).square().sum(), [features, weight, bias]
    )
    assert_close("output", got, want, torch.float64)
    for name, one, other in zip(("features", "weight", "bias"), grads, wanted, strict=True):
        assert_close(name, one, other, torch.float64)


def test_a_common_shift_of_all_points_is_a_shift_of_the_features():
    features = F.pad(randn(2, 6, 9, 7), (6, 6, 6, 6))  # nothing leaves the map
    _, points, weight, bias, _ = inputs((2, 6, 4, 21, 19, 3), base=False)
    points = points.nan_to_num(0, 0, 0).clamp(-2, 2)
    shift = torch.zeros(1, 18, 1, 1, dtype=torch.float64)
    shift[:, 0::2], shift[:, 1::2] = 2, -1
    got = ops.actpoint_aggregate(features, points, weight, bias, shift.expand(2, 18, 21, 19))
    want = ops.actpoint_aggregate(features.roll((-2, 1), (2, 3)), points, weight, bias)
    assert_close("output", got, want, torch.float64)


@pytest.mark.interpreted
def test_base_offset_adds_to_the_offsets():
    features, points, weight, bias, base = inputs(SHAPES[2])
    summed = points.clone()
    summed[:, :18] += base
    got = ops.actpoint_aggregate(features, points, weight, bias, base)
    assert torch.equal(got, ops.actpoint_aggregate(features, summed, weight, bias))


def test_is_a_modulated_deformable_convolution():
    features, points, weight, bias, base = inputs(SHAPES[4])
    got = ops.actpoint_aggregate(features, points, weight, bias, base)
    offset, mask = points[:, :50] + base, points[:, 50:].sigmoid()
    want = ops.deform_conv2d(features, offset, weight, bias, padding=2, mask=mask)
    assert_close("output", got, want, torch.float64)


def test_points_outside_of_the_map_contribute_nothing():
    features, points, weight, bias, _ = inputs(SHAPES[2], base=False)
    for outside in (-1e3, 1e30, float("inf"), float("-inf"), float("nan")):
        points[:, :18] = outside
        output, grads = value_and_gradients(
            ops.actpoint_aggregate, [features, points, weight, bias], torch.ones(2, 7, 9, 6)
        )
        assert torch.equal(output, bias.view(-1, 1, 1).expand_as(output))
        for grad in grads[:3]:
            assert not grad.any()


@pytest.mark.interpreted
def test_nan_in_the_features_reaches_the_output():
    features, points, weight, bias, _ = inputs(SHAPES[2], base=False)
    features[:] = torch.nan
    points[:] = 0
    for dtype in DTYPES:
        tensors = [t.to(dtype) for t in (features, points, weight, bias)]
        assert ops.actpoint_aggregate(*tensors, relu=True)[:, :, 4, 3].isnan().all()


@pytest.mark.parametrize("relu", [False, True])
def test_gradcheck(relu):
    tensors = [t.requires_grad_() for t in inputs((1, 2, 2, 3, 3, 3), spread=0.7)]
    assert torch.autograd.gradcheck(lambda *t: ops.actpoint_aggregate(*t, relu=relu), tensors)


@pytest.mark.interpreted({"wanted": 0}, {"wanted": 1})
@pytest.mark.parametrize("wanted", range(5))
def test_a_gradient_alone_equals_that_of_all(wanted):
    tensors = inputs(SHAPES[2])
    grad_output = randn(2, 7, 9, 6, seed=6)
    _, together = value_and_gradients(ops.actpoint_aggregate, tensors, grad_output)
    leaves = [t.clone().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
    ops.actpoint_aggregate(*leaves).backward(grad_output)
    for i, leaf in enumerate(leaves):
        if i == wanted:
            assert_close("gradient", leaf.grad, together[i], torch.float64)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 2, 70])
def test_same_bits_for_any_number_of_threads(dtype, batch):
    side = 31 if batch < 70 else 4
    tensors = [t.to(dtype) for t in inputs((batch, 12, 10, side, side, 5), spread=6)]
    grad_output = randn(batch, 10, side, side, seed=6)

    def run():
        output, grads = value_and_gradients(
            lambda *t: ops.actpoint_aggregate(*t, relu=True), tensors, grad_output
        )
        return [output, *grads]

    assert_same_bits(run)


def test_autocast_runs_in_its_dtype():
    tensors = [t.float() for t in inputs(SHAPES[4])]
    with torch.autocast("cpu", torch.bfloat16):
        output, grads = value_and_gradients(
            ops.actpoint_aggregate, tensors, randn(3, 9, 5, 13, seed=6)
        )
    assert output.dtype == torch.bfloat16
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert torch.equal(output, ops.actpoint_aggregate(*[t.bfloat16() for t in tensors]))


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.update(features=torch.zeros(3, 4)), ValueError, r"features .*\(3, 4\).*4 dim"),
        (lambda t: t.update(features=[1]), TypeError, "features is a list"),
        (lambda t: t.update(points=torch.zeros(2, 26, 9, 6)), ValueError, r"points .*26.*3K.*27"),
        (lambda t: t.update(weight=torch.zeros(7, 5, 4, 4)), ValueError, "weight .*3, 5 or 7"),
        (
            lambda t: t.update(weight=torch.zeros(7, 6, 3, 3)),
            ValueError,
            r"weight .*\(7, 5, 3, 3\)",
        ),
        (lambda t: t.update(bias=torch.zeros(6)), ValueError, r"bias .*\(6,\).*\(7,\)"),
        (lambda t: t.update(base_offset=torch.zeros(2, 9, 9, 6)), ValueError, "base_offset .*18"),
        (lambda t: t.update(points=t["points"].double()), TypeError, "points .*float64.*float32"),
        (lambda t: t.update(features=t["features"].int()), TypeError, "features .*int32"),
        (lambda t: t.update(weight=t["weight"].to("meta")), ValueError, "weight .*meta.*cpu"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    names = ("features", "points", "weight", "bias", "base_offset")
    arguments = dict(zip(names, (t.float() for t in inputs(SHAPES[2])), strict=True))
    change(arguments)
    with pytest.raises(error, match=message):
        ops.actpoint_aggregate(**arguments)

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

# batch, channels, outputs, height, width, kernel, stride, padding, dilation
CASES = [
    (1, 1, 1, 3, 3, (1, 1), 1, 0, 1),
    (0, 3, 4, 7, 6, (3, 3), 1, 1, 1),
    (2, 5, 7, 9, 6, (3, 3), 1, 1, 1),
    (3, 6, 5, 11, 8, (2, 3), (2, 1), (0, 2), (1, 2)),
    (1, 17, 33, 10, 13, (5, 5), 2, 3, 1),
    (2, 4, 3, 9, 9, (3, 1), 3, 0, (4, 1)),
    (2, 32, 32, 8, 10, (3, 3), 1, 1, 1),
]


def inputs(case, bias=True, mask=True):
    """input, offset, weight, bias, mask in float64 and the convolution's steps."""
    batch, channels, outputs, height, width, kernel, *steps = case
    pairs = [step if isinstance(step, tuple) else (step, step) for step in steps]
    out_h, out_w = (
        (size + 2 * pad - dilation * (k - 1) - 1) // stride + 1
        for size, k, stride, pad, dilation in zip((height, width), kernel, *pairs, strict=True)
    )
    taps = kernel[0] * kernel[1]
    offset = randn(batch, 2 * taps, out_h, out_w, seed=1, scale=2)
    tensors = [
        randn(batch, channels, height, width, seed=2),
        spoil(offset) if offset.numel() > 500 else offset,
        randn(outputs, channels, *kernel, seed=3, scale=(channels * taps) ** -0.5),
        randn(outputs, seed=4) if bias else None,
        randn(batch, taps, out_h, out_w, seed=5) if mask else None,
    ]
    return tensors, dict(zip(("stride", "padding", "dilation"), steps, strict=True))


def convolve(module, steps):
    return lambda input, offset, weight, bias, mask: module.deform_conv2d(
        input, offset, weight, bias, **steps, mask=mask
    )


@pytest.mark.interpreted(
    {"case": CASES[0]},
    {"case": CASES[1]},
    {"case": CASES[2], "dtype": torch.float16},
    {"case": CASES[3], "dtype": torch.float32},
    {"case": CASES[5], "dtype": torch.bfloat16},
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(case, dtype):
    tensors, steps = inputs(case)
    compare_with_reference(convolve(ops, steps), convolve(reference, steps), tensors, dtype)


@pytest.mark.interpreted({})
@pytest.mark.parametrize("outputs", [65, 3])  # one more than a tile of Triton's; less than one
def test_nan_in_the_gradient_of_one_pixel_stays_there(outputs):
    tensors, steps = inputs((1, 3, outputs, 4, 5, (3, 3), 1, 1, 1))
    leaves = [t.float().requires_grad_() for t in tensors]
    out = convolve(ops, steps)(*leaves)
    gradient = torch.ones_like(out)
    gradient[0, :2, 2, 3] = float("nan")
    _, offset, _, _, mask = torch.autograd.grad(out, leaves, gradient)
    there = torch.zeros(1, 4, 5, dtype=torch.bool)
    there[0, 2, 3] = True
    for grad in (offset, mask):
        assert torch.equal(grad.isnan().any(dim=1), there)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_optional_arguments(bias, mask):
    tensors, steps = inputs(CASES[3], bias, mask)
    compare_with_reference(convolve(ops, steps), convolve(reference, steps), tensors, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_last_is_kept(dtype):
    tensors, steps = inputs(CASES[3])
    compare_with_reference(
        convolve(ops, steps), convolve(reference, steps), tensors, dtype, torch.channels_last
    )


@pytest.mark.parametrize("isa", isas())
def test_every_instruction_set(isa, monkeypatch):
    monkeypatch.setenv("GGNET_CPU_ISA", isa)
    for dtype in DTYPES:
        tensors, steps = inputs(CASES[4])
        compare_with_reference(convolve(ops, steps), convolve(reference, steps), tensors, dtype)


@pytest.mark.parametrize("case", [c for c in CASES if c[0]], ids=str)
def test_zero_offsets_without_a_mask_are_a_convolution(case):
    (input, offset, weight, bias, _), steps = inputs(case)
    offset = torch.zeros_like(offset)
    got, grads = value_and_gradients(
        lambda *t: ops.deform_conv2d(t[0], offset, *t[1:], **steps).square().sum(),
        [input, weight, bias],
    )
    want, wanted = value_and_gradients(
        lambda *t: F.conv2d(*t, **steps).square().sum(), [input, weight, bias]
    )
    assert_close("output", got, want, torch.float64)
    for name, one, other in zip(("input", "weight", "bias"), grads, wanted, strict=True):
        assert_close(name, one, other, torch.float64)


def test_equals_torchvision():
    torchvision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    for case in CASES[2:]:
        tensors, steps = inputs(case)
        tensors[1] = tensors[1].nan_to_num(0, 0, 0)  # it reads out of bounds there
        compare_with_reference(
            convolve(ops, steps), convolve(torchvision.ops, steps), tensors, torch.float64
        )


@pytest.mark.interpreted
def test_gradient_of_an_offset_at_an_integer_is_the_derivative_from_the_right():
    ramp = torch.tensor([1.0, 3.0, 4.0]).view(1, 1, 1, 3)
    weight = torch.ones(1, 1, 1, 1)
    for at, slope in ((0, 2.0), (1, 1.0), (2, -4.0), (-1, 1.0), (-2, 0.0), (3, 0.0)):
        offset = torch.zeros(1, 2, 1, 3)
        offset[0, 1, 0, 0] = at
        offset.requires_grad_()
        ops.deform_conv2d(ramp, offset, weight)[..., 0].sum().backward()
        assert offset.grad[0, 1, 0, 0] == slope


def test_gradcheck():
    tensors, steps = inputs((1, 2, 2, 4, 5, (2, 3), (2, 1), 1, 1))
    tensors[1] = tensors[1] / 3
    for t in tensors:
        t.requires_grad_()
    assert torch.autograd.gradcheck(convolve(ops, steps), tensors)


def test_same_bits_for_any_number_of_threads():
    tensors, steps = inputs((2, 20, 24, 37, 29, (3, 3), 1, 1, 1))
    tensors = [t.float() for t in tensors]

    def run():
        output, grads = value_and_gradients(
            convolve(ops, steps), tensors, randn(2, 24, 37, 29, seed=6)
        )
        return [output, *grads]

    assert_same_bits(run)


def test_autocast_runs_in_its_dtype():
    tensors, steps = inputs(CASES[3])
    with torch.autocast("cpu", torch.bfloat16):
        output = convolve(ops, steps)(*[t.float() for t in tensors])
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, convolve(ops, steps)(*[t.bfloat16() for t in tensors]))


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"weight": torch.zeros(7, 5, 3)}, ValueError, "weight .*4 dimensions"),
        ({"offset": torch.zeros(2, 18, 9, 5)}, ValueError, r"offset .*\(2, 18, 9, 6\)"),
        ({"mask": torch.zeros(2, 8, 9, 6)}, ValueError, r"mask .*\(2, 9, 9, 6\)"),
        ({"stride": 0}, ValueError, "stride is 0"),
        ({"padding": (1, -1)}, ValueError, "padding is -1"),
        ({"dilation": (1, 2, 3)}, ValueError, "dilation is"),
        ({"stride": 1.5}, TypeError, "stride is a float"),
        ({"dilation": 9}, ValueError, "dilated kernel"),
        ({"offset": torch.zeros(2, 36, 9, 6)}, ValueError, "offset .*36.* one of 18, 90$"),
        ({"offset": torch.zeros(2, 20, 9, 6)}, ValueError, "offset .*20.* one of 18, 90$"),
        ({"offset": torch.zeros(2, 0, 9, 6)}, ValueError, "offset .* 0 .* one of 18, 90$"),
        ({"offset": torch.zeros(2, 90, 9, 6)}, ValueError, r"mask .*\(2, 45, 9, 6\)"),
        ({"weight": torch.zeros(7, 3, 3, 3)}, ValueError, "3 input channels; .* 5 .* divisor"),
        ({"weight": torch.zeros(7, 0, 3, 3)}, ValueError, "none empty"),
        ({"weight": torch.zeros(7, 1, 3, 3)}, ValueError, "7 outputs; .* multiple of 5"),
        ({"input": torch.zeros(2, 0, 9, 6)}, ValueError, "input has no channels"),
        ({"input": torch.zeros(2, 5, 9, 6).long()}, TypeError, "input .*int64"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    tensors, steps = inputs(CASES[2])
    names = ("input", "offset", "weight", "bias", "mask")
    arguments = dict(zip(names, (t.float() for t in tensors), strict=True)) | steps
    with pytest.raises(error, match=message):
        ops.deform_conv2d(**(arguments | change))


@pytest.mark.parametrize("position", range(6))  # stride, padding, dilation
def test_steps_that_32_bits_cannot_hold_are_refused(position):
    steps = [1, 1, 0, 0, 1, 1]
    steps[position] = 2**31
    input, weight = torch.zeros(0, 1, 4, 4), torch.zeros(1, 1, 1, 1)
    with pytest.raises(RuntimeError, match="expected less than 2\\*\\*31"):
        torch.ops.ggnet.deform_conv2d(
            input, torch.zeros(0, 2, 4, 4), weight, None, *steps, None, tf32=False
        )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"weight": (4, 4, 3, 3)}, "4 input channels, expected the 6 .* divisor"),
        ({"weight": (4, 2, 3, 3)}, "4 outputs, expected a multiple of 3"),
        ({"weight": (4, 0, 3, 3)}, "empty dimension"),
        ({"offset": (1, 72, 5, 5)}, "offset has 72 channels, .* one of 18, 36, 54, 108"),
        ({"offset": (1, 0, 5, 5)}, "offset has 0 channels, .* one of 18, 36, 54, 108"),
        ({"offset": (1, 36, 5, 5)}, r"mask has shape .*expected \(1, 18, 5, 5\)"),
    ],
)
def test_a_direct_call_refuses_groups_that_do_not_fit(shapes, message):
    fitting = {"input": (1, 6, 5, 5), "offset": (1, 18, 5, 5), "weight": (4, 6, 3, 3)}
    tensors = [torch.zeros(shape) for shape in (fitting | shapes).values()]
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ggnet.deform_conv2d(
            *tensors, None, 1, 1, 1, 1, 1, 1, torch.zeros(1, 9, 5, 5), tf32=False
        )

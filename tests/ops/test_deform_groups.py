"""Groups and offset groups of deform_conv2d."""

import itertools
import os
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
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

# channels, outputs, groups, offset groups
CASES = [
    (6, 6, 6, 1),  # depthwise
    (33, 66, 33, 3),
    (8, 8, 4, 2),
    (8, 4, 2, 8),  # a group reads several offset groups
    (12, 9, 3, 2),  # a group and a half in an offset group
    (80, 80, 20, 1),  # narrow groups, beyond what is gathered at a time
    (20, 140, 20, 4),
    (20, 160, 4, 1),  # wide groups
    (48, 84, 2, 3),  # of which one is cut by an offset group
    (64, 24, 1, 16),
    (300, 40, 1, 2),
    (260, 80, 2, 1),
]
NAMES = ("input", "offset", "weight", "bias", "mask")


def inputs(case, batch=2, size=(9, 7), kernel=(3, 3), steps=(1, 1, 1), bias=True, mask=True):
    """input, offset, weight, bias, mask in float64; steps: stride, padding, dilation."""
    channels, outputs, groups, offset_groups = case
    pairs = [step if isinstance(step, tuple) else (step, step) for step in steps]
    out_h, out_w = (
        (side + 2 * pad - dilation * (k - 1) - 1) // stride + 1
        for side, k, stride, pad, dilation in zip(size, kernel, *pairs, strict=True)
    )
    taps = kernel[0] * kernel[1]
    offset = randn(batch, 2 * offset_groups * taps, out_h, out_w, seed=1, scale=2)
    return [
        randn(batch, channels, *size, seed=2),
        spoil(offset) if offset.numel() > 500 else offset,
        randn(outputs, channels // groups, *kernel, seed=3, scale=(channels * taps) ** -0.5),
        randn(outputs, seed=4) if bias else None,
        randn(batch, offset_groups * taps, out_h, out_w, seed=5) if mask else None,
    ]


def convolve(module, *steps):
    return lambda input, offset, weight, bias, mask: module.deform_conv2d(
        input, offset, weight, bias, *(steps or (1, 1, 1)), mask=mask
    )


def on(isa):
    return mock.patch.dict(os.environ, GGNET_CPU_ISA=isa)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_the_reference(case, isa, dtype):
    with on(isa):
        compare_with_reference(convolve(ops), convolve(reference), inputs(case), dtype)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("case", "dtype", "mask", "deterministic"),
    [
        ((4, 8, 4, 4), torch.float32, True, True),
        ((20, 8, 2, 5), torch.bfloat16, True, False),  # a group reads two offset groups and a half
        ((24, 6, 1, 3), torch.float64, False, False),
        ((66, 4, 2, 1), torch.float16, True, False),  # sections of more than a slice
        ((4, 136, 2, 1), torch.float32, False, True),  # outputs of more than a tile
    ],
    ids=str,
)
def test_small_maps(case, dtype, mask, deterministic):
    steps = ((2, 1), (0, 1), 1)
    tensors = inputs(case, 1, (5, 4), (2, 3), steps, mask=mask)
    torch.use_deterministic_algorithms(deterministic)
    try:
        compare_with_reference(convolve(ops, *steps), convolve(reference, *steps), tensors, dtype)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.interpreted
@pytest.mark.parametrize("operator", ["deform_conv2d", "actpoint_aggregate"])
def test_deterministic_sums_have_room_for_any_mask(operator):
    """Fixed-point sums: the unit follows from the largest mask; through a sigmoid that is 1."""
    steps = (1, 1, 1)
    tensors = inputs((4, 8, 1, 1), 1, (5, 4), (3, 3), steps)
    input, offset, weight, bias, mask = tensors
    torch.use_deterministic_algorithms(True)
    try:
        if operator == "deform_conv2d":
            tensors[4] = mask * 1e12
            compare_with_reference(
                convolve(ops, *steps), convolve(reference, *steps), tensors, torch.float32
            )
        else:
            points = torch.cat([offset, torch.zeros_like(mask)], dim=1)
            compare_with_reference(
                ops.actpoint_aggregate,
                reference.actpoint_aggregate,
                [input, points, weight],
                torch.float32,
            )
    finally:
        torch.use_deterministic_algorithms(False)


@st.composite
def problems(draw):
    groups, each, every = (draw(st.integers(1, n)) for n in (5, 12, 24))
    channels = groups * each
    fitting = [g for g in range(1, channels + 1) if channels % g == 0]
    case = (channels, groups * every, groups, draw(st.sampled_from(fitting)))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = draw(pair), draw(pair), draw(pair)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 9))
        for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    steps = (stride, padding, dilation)
    optional = {name: draw(st.booleans()) for name in ("bias", "mask")}
    tensors = inputs(case, draw(st.integers(0, 2)), size, kernel, steps, **optional)
    layouts = [draw(st.sampled_from(("dense", "channels last", "strided"))) for _ in tensors]
    return [laid(t, layout) for t, layout in zip(tensors, layouts, strict=True)], steps


def laid(tensor, layout):
    """The same values with other strides."""
    if tensor is None or layout == "dense":
        return tensor
    if tensor.dim() == 4 and layout == "channels last":
        return tensor.contiguous(memory_format=torch.channels_last)
    apart = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), torch.nan, dtype=tensor.dtype)
    apart[..., ::2] = tensor
    return apart[..., ::2]


@settings(deadline=None, max_examples=80)
@given(problems(), st.sampled_from(isas()))
def test_any_shape_and_layout(problem, isa):
    tensors, steps = problem
    grad = randn(*convolve(ops, *steps)(*tensors).shape, seed=9)
    with on(isa):
        got, grads = value_and_gradients(convolve(ops, *steps), tensors, grad)
    expected, wanted = value_and_gradients(convolve(reference, *steps), tensors, grad)
    assert_close("output", got, expected, torch.float64)
    for name, one, other in zip(NAMES, grads, wanted, strict=True):
        if other is not None:
            assert_close(f"gradient of {name}", one, other, torch.float64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_zero_offsets_without_a_mask_are_a_convolution(case):
    input, offset, weight, bias, _ = inputs(case, mask=False)
    groups = case[2]
    got, grads = value_and_gradients(
        lambda x, w, b: (
            ops.deform_conv2d(x, torch.zeros_like(offset), w, b, padding=1).square().sum()
        ),
        [input, weight, bias],
    )
    want, wanted = value_and_gradients(
        lambda x, w, b: F.conv2d(x, w, b, padding=1, groups=groups).square().sum(),
        [input, weight, bias],
    )
    assert_close("output", got, want, torch.float64)
    for name, one, other in zip(("input", "weight", "bias"), grads, wanted, strict=True):
        assert_close(name, one, other, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_last_is_kept(dtype):
    compare_with_reference(
        convolve(ops), convolve(reference), inputs(CASES[2]), dtype, torch.channels_last
    )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_torchvision(case):
    torchvision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    steps = ((2, 1), (1, 2), (1, 2))
    tensors = inputs(case, kernel=(2, 3), steps=steps)
    tensors[1] = tensors[1].nan_to_num(0, 0, 0)  # it reads out of bounds there
    compare_with_reference(
        convolve(ops, *steps), convolve(torchvision.ops, *steps), tensors, torch.float64
    )


@pytest.mark.parametrize("case", [CASES[2], CASES[7]], ids=str)
def test_each_gradient_alone_is_that_of_all(case):
    tensors = inputs(case)
    grad = randn(2, case[1], 9, 7, seed=9)
    _, together = value_and_gradients(convolve(ops), tensors, grad)
    for wanted in itertools.product((False, True), repeat=len(tensors)):
        if not any(wanted):
            continue
        leaves = [t.clone().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
        convolve(ops)(*leaves).backward(grad)
        for name, leaf, expected in zip(NAMES, leaves, together, strict=True):
            if leaf.requires_grad:
                assert torch.equal(leaf.grad, expected), (name, wanted)


@pytest.mark.parametrize("case", [(4, 4, 2, 2), (4, 4, 4, 1)], ids=str)
def test_gradcheck(case):
    tensors = inputs(case, 1, (4, 5), (2, 3), ((2, 1), 1, 1))
    tensors[1] = tensors[1] / 3
    for t in tensors:
        t.requires_grad_()
    assert torch.autograd.gradcheck(convolve(ops, (2, 1), 1, 1), tensors)


@pytest.mark.parametrize("case", [(24, 24, 6, 2), (24, 96, 2, 3), (24, 24, 24, 24)], ids=str)
def test_same_bits_for_any_number_of_threads(case):
    tensors = [t.float() for t in inputs(case, size=(37, 29))]

    def run():
        output, grads = value_and_gradients(
            convolve(ops), tensors, randn(2, case[1], 37, 29, seed=6)
        )
        return [output, *grads]

    assert_same_bits(run)

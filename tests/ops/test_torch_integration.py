"""opcheck, torch.compile and torch.export, for every operator."""

import itertools

import numpy as np
import pytest
import torch
from op_testing import randn
from tolerances import COMPILED
from torch import nn
from torch.compiler import assume_constant_result
from torch.library import opcheck

from ggnet import ops
from ggnet.ops._operators import SCHEMAS
from ggnet.ops._traced import constant_when_traced

OPS = torch.ops.ggnet


def f32(*shape, seed=0):
    return randn(*shape, seed=seed).float()


def peaks(count, channels):
    return tuple(ops.topk_peaks(f32(2, channels, 9, 8, seed=channels), count))


ACTPOINT = (
    f32(2, 4, 5, 6),
    f32(2, 27, 5, 6, seed=1),
    f32(3, 4, 3, 3, seed=2),
    f32(3, seed=3),
    f32(2, 18, 5, 6, seed=4),
)
DEFORM = (f32(2, 4, 5, 6), f32(2, 18, 3, 6, seed=1), f32(3, 4, 3, 3, seed=2), f32(3, seed=3))
MASK = f32(2, 9, 3, 6, seed=5)
GROUPS = (f32(2, 4, 5, 6), f32(2, 72, 5, 6, seed=1), f32(6, 2, 3, 3, seed=2), f32(6, seed=3))
GROUPS_MASK = f32(2, 36, 5, 6, seed=5)
STEPS = (2, 1, 1, 1, 1, 1)
HNA = (f32(2, 3, 5, 4), f32(2, 3, 5, 4, seed=1).clamp(-1, 1))
POINTS = (
    torch.tensor([[0, 1, 2, 3], [1, 0, 4, 4]], dtype=torch.int32),
    torch.tensor([1, 2], dtype=torch.int32),
    torch.tensor([1, -1], dtype=torch.int32),
)
MATCH = (peaks(7, 3), peaks(5, 1), peaks(6, 4), f32(2, 7, 2), f32(2, 7, 2, seed=1))
PAIRS = torch.ones(3, 4, dtype=torch.bool)

# name: the Python function on tensors alone, its tensors (nested), differentiable
FUNCTIONS = {
    "actpoint_aggregate": (lambda *t: ops.actpoint_aggregate(*t, relu=True), ACTPOINT, True),
    "actpoint_aggregate without the optional": (ops.actpoint_aggregate, ACTPOINT[:3], True),
    "deform_conv2d": (
        lambda input, offset, weight, bias, mask: ops.deform_conv2d(
            input, offset, weight, bias, (2, 1), 1, mask=mask
        ),
        (*DEFORM, MASK),
        True,
    ),
    "deform_conv2d in groups": (
        lambda input, offset, weight, bias, mask: ops.deform_conv2d(
            input, offset, weight, bias, padding=1, mask=mask
        ),
        (*GROUPS, GROUPS_MASK),
        True,
    ),
    "hna_loss": (ops.hna_loss, HNA, True),
    "hna_loss of half logits": (
        lambda logits, target: 64 * ops.hna_loss(logits, target),
        tuple(t.bfloat16() for t in HNA),
        True,
    ),
    "draw_heatmaps": (lambda *t: ops.draw_heatmaps(*t, (2, 3, 8, 9)), POINTS, False),
    "topk_peaks": (lambda x: ops.topk_peaks(x, 9), (f32(2, 3, 7, 8),), False),
    "match_points": (ops.match_points, (*MATCH, PAIRS), False),
    "decode_hoi": (
        lambda *maps: tuple(
            ops.decode_hoi(
                dict(
                    zip(
                        (
                            "heatmap",
                            "interaction",
                            "size",
                            "center_frac",
                            "human_offset",
                            "object_offset",
                        ),
                        maps,
                        strict=True,
                    )
                ),
                PAIRS,
                k=9,
            )
        ),
        tuple(f32(2, c, 8, 9, seed=i) for i, c in enumerate((4, 3, 2, 2, 6, 6))),
        False,
    ),
}


def leaves(tensors, differentiable):
    def leaf(value):
        if isinstance(value, tuple):
            return tuple(map(leaf, value))
        return value.clone().requires_grad_(differentiable)

    return leaf(tensors)


def results(function, tensors, differentiable):
    """Outputs and, for a differentiable function, the gradients of their squares' sum."""
    inputs = leaves(tensors, differentiable)
    output = function(*inputs)
    outputs = list(output) if isinstance(output, tuple) else [output]
    if differentiable:
        output.square().sum().backward()
        outputs += [t.grad for t in inputs if t.grad is not None]
    return outputs


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_equals_eager(name):
    function, tensors, differentiable = FUNCTIONS[name]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected = results(function, tensors, differentiable)
    got = results(compiled, tensors, differentiable)
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


def test_inductor_compiles_a_training_step_with_all_of_them():
    """The operators between ordinary layers, with shapes that change."""

    def step(images, points, weight, bias, centers, radii, signs):
        features = ops.actpoint_aggregate(images * 2, points, weight, bias)
        logits = ops.deform_conv2d(features, points[:, :18], weight, padding=1)
        target = ops.draw_heatmaps(centers, radii, signs, logits.shape)
        return ops.hna_loss(logits, target) + 1, ops.topk_peaks(logits, 5)[0]

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for height in (5, 7):
        values = []
        for function in (step, compiled):
            weight = f32(1, 1, 3, 3, seed=2).requires_grad_()
            loss, scores = function(
                f32(2, 1, height, 6), f32(2, 27, height, 6, seed=1), weight, f32(1), *POINTS
            )
            loss.backward()
            values.append((loss.detach(), scores, weight.grad))
        for one, other in zip(*values, strict=True):
            assert torch.allclose(one, other, **COMPILED)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exported_equals_eager(name):
    function, tensors, _ = FUNCTIONS[name]

    class Module(nn.Module):
        def forward(self, *inputs):
            return function(*inputs)

    with torch.no_grad():
        program = torch.export.export(Module(), tensors)
        got, expected = program.module()(*tensors), function(*tensors)
    if not isinstance(expected, tuple):
        got, expected = (got,), (expected,)
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one, other)


def test_export_with_a_batch_of_any_size():
    class Module(nn.Module):
        def forward(self, features, points, weight):
            return ops.topk_peaks(ops.actpoint_aggregate(features, points, weight, relu=True), 3)

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        Module(), ACTPOINT[:3], dynamic_shapes=({0: batch}, {0: batch}, None)
    )
    inputs = (f32(5, 4, 5, 6, seed=7), f32(5, 27, 5, 6, seed=8), ACTPOINT[2])
    for one, other in zip(program.module()(*inputs), Module()(*inputs), strict=True):
        assert torch.equal(one, other)


def opcheck_cases():
    def grad(*tensors):
        return tuple(leaves(tensors, True))

    last = torch.channels_last
    nhwc = tuple(t.contiguous(memory_format=last) if t.dim() == 4 else t for t in ACTPOINT)
    output = f32(2, 3, 5, 6, seed=9)
    yield "actpoint_aggregate", grad(*ACTPOINT), {"relu": True}
    yield "actpoint_aggregate", grad(*nhwc), {}
    yield "actpoint_aggregate", grad(*ACTPOINT[:3]), {}
    for mask in (15, 2):
        yield (
            "actpoint_aggregate_backward",
            (output, *ACTPOINT[:3], ACTPOINT[4], output.relu(), mask, True),
            {},
        )
    yield (
        "actpoint_aggregate_backward",
        (output.contiguous(memory_format=last), *nhwc[:3], None, None, 15, False),
        {},
    )
    yield "deform_conv2d", (*grad(*DEFORM), *STEPS, *grad(MASK)), {}
    yield "deform_conv2d", (*grad(*DEFORM[:3]), None, *STEPS, None), {}
    yield "deform_conv2d", (*grad(*GROUPS), 1, 1, 1, 1, 1, 1, *grad(GROUPS_MASK)), {}
    deform_grad = f32(2, 3, 3, 6, seed=9)
    yield "deform_conv2d_backward", (deform_grad, *DEFORM[:3], MASK, *STEPS, 31, True), {}
    yield "deform_conv2d_backward", (deform_grad, *DEFORM[:3], None, *STEPS, 5, False), {}
    powers = (2.0, 7.0, 4.0, 1e-4)
    yield "hna_loss", (*grad(HNA[0]), HNA[1], *powers, True), {}
    yield "hna_loss", (HNA[0].contiguous(memory_format=last), HNA[1], *powers, True), {}
    yield "hna_loss", (*HNA, *powers, False), {}
    half = tuple(t.bfloat16() for t in HNA)
    yield "hna_loss", (*grad(half[0]), half[1], *powers, False), {}
    count = torch.tensor(3, dtype=torch.int32)
    for tensors in (HNA, half, (half[0].contiguous(memory_format=last), HNA[1])):
        yield "hna_loss_gradient", (torch.tensor(2.0), *tensors, count, *powers), {}
    yield "hna_loss_backward", (torch.tensor(2.0), f32(2, 3, 5, 4)), {}
    yield "hna_loss_backward_", (torch.tensor(2.0), f32(2, 3, 5, 4)), {}
    yield "draw_heatmaps", (*POINTS, [2, 3, 8, 9], 6.0, 2.0), {}
    yield "topk_peaks", (f32(2, 3, 7, 8), 9, 3), {}
    yield "topk_peaks", (f32(2, 3, 7, 8).bfloat16(), 9, 3), {}
    yield "match_points", (*map(list, MATCH[:3]), *MATCH[3:], PAIRS, 0, 1), {}
    yield "match_points", (*map(list, MATCH[:3]), *MATCH[3:], None, 1, 2), {}


def test_every_operator_is_here():
    assert {name.partition(" ")[0] for name in FUNCTIONS} >= set(ops.OPERATORS)
    assert {name for name, *_ in opcheck_cases()} == set(itertools.chain(*SCHEMAS.values()))


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(opcheck_cases())],
)
def test_opcheck(name, args, kwargs):
    opcheck(getattr(OPS, name).default, args, kwargs)


def test_numpys_numbers_are_numbers():
    x = torch.randn(1, 2, 8, 8)
    two, single = np.int64(2), np.float32(6)
    assert_same(ops.topk_peaks(x, two, kernel_size=np.uint8(3)), ops.topk_peaks(x, 2))
    offset, weight = torch.randn(1, 18, 4, 4), torch.randn(3, 2, 3, 3)
    assert_same(
        [ops.deform_conv2d(x, offset, weight, None, two, (np.int64(1), np.int32(1)), np.int8(1))],
        [ops.deform_conv2d(x, offset, weight, None, 2, 1, 1)],
    )
    target = torch.zeros_like(x)
    settings = {"alpha": np.float32(2), "beta": np.int64(7), "gamma": np.float64(4)}
    assert_same([ops.hna_loss(x, target, **settings)], [ops.hna_loss(x, target)])
    points = [torch.tensor(v, dtype=torch.int32) for v in ([[0, 0, 5, 5]], [4], [1])]
    shape = np.array([1, 1, 11, 14])
    assert_same(
        [ops.draw_heatmaps(*points, shape, positive_factor=single)],
        [ops.draw_heatmaps(*points, (1, 1, 11, 14))],
    )
    with pytest.raises(TypeError, match="k is a float; expected an integer"):
        ops.topk_peaks(x, float(np.float64(2.0)))
    with pytest.raises(TypeError, match="k is a bool; expected an integer"):
        ops.topk_peaks(x, np.True_)


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_the_mark_of_a_constant_is_torchs_own():
    """It is set without importing Dynamo: torch may rename it."""
    theirs, ours = (mark(lambda: 0) for mark in (assume_constant_result, constant_when_traced))
    assert vars(ours) == vars(theirs)

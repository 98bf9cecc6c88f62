import math

import pytest
import torch
from op_testing import (
    DTYPES,
    assert_close,
    assert_same_bits,
    generator,
    isas,
    randn,
    threads,
    value_and_gradients,
)
from tolerances import CPU
from torch.utils.checkpoint import checkpoint

from ggnet import ops, reference

SHAPES = [(1, 1, 1, 1), (0, 3, 4, 4), (2, 5, 13, 11), (3, 1, 7, 40), (1, 117, 9, 5)]
POWERS = [
    {},
    {"alpha": 1.5, "beta": 3.0, "gamma": 2.5, "eps": 1e-3},
    {"alpha": 0.0, "beta": 0.0, "gamma": 0.0, "eps": 0.2},
    {"alpha": 4.0, "gamma": 4.0},
    {"alpha": 1.3, "beta": 7.3, "gamma": 4.1},  # no float32 has these values
]
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def inputs(*shape, seed=0, spread=4.0):
    """Logits, some of them saturated, and targets with cells of exactly 1 and -1."""
    logits = randn(*shape, seed=seed, scale=spread)
    target = torch.rand(shape, generator=generator(seed + 1), dtype=torch.float64) * 2 - 1
    target[target > 0.9], target[target < -0.9] = 1, -1
    if logits.numel() > 100:
        logits.view(-1)[:4] = torch.tensor([60.0, -60.0, 2000.0, -2000.0])
    return logits, target


def loss_and_gradient(function, logits, target, **powers):
    loss, (grad,) = value_and_gradients(lambda x: function(x, target, **powers), [logits])
    return loss, grad


@pytest.mark.interpreted({"shape": SHAPES[0]}, {"shape": SHAPES[1]}, {"shape": SHAPES[2]})
@pytest.mark.parametrize("powers", POWERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_the_reference(shape, dtype, powers):
    logits, target = (t.to(dtype) for t in inputs(*shape))
    loss, grad = loss_and_gradient(ops.hna_loss, logits, target, **powers)
    expected, wanted = loss_and_gradient(
        reference.hna_loss, logits.double(), target.double(), **powers
    )
    # The sum is in float64 of terms in at least float32, whatever the storage is.
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == exact
    assert grad.dtype == dtype
    assert_close("loss", loss, expected, exact)
    assert_close("gradient", grad, wanted, dtype)


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("powers", POWERS[:2], ids=str)
def test_every_instruction_set(isa, powers, monkeypatch):
    monkeypatch.setenv("GGNET_CPU_ISA", isa)
    for dtype in DTYPES:
        test_matches_the_reference((2, 5, 13, 11), dtype, powers)


@pytest.mark.interpreted
def test_small_gradients_are_accurate():
    """Relative to themselves, not to the largest: confident cells matter to training too."""
    logits = torch.linspace(-9, 9, 1001).view(1, 1, 1, -1)
    for value in (-1.0, -0.5, 0.0, 0.99, 1.0):
        target = torch.full_like(logits, value)
        _, grad = loss_and_gradient(ops.hna_loss, logits, target)
        _, wanted = loss_and_gradient(reference.hna_loss, logits.double(), target.double())
        error = (grad.double() - wanted).abs() / wanted.abs().clamp(min=1e-30)
        assert error.max() < CPU[torch.float32]


@pytest.mark.interpreted
@pytest.mark.parametrize("logits_layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("target_layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_mixture_of_layouts(logits_layout, target_layout, dtype):
    logits, target = inputs(2, 21, 47, 33)
    logits, target = logits.to(dtype), target.float()
    loss, grad = loss_and_gradient(
        ops.hna_loss,
        logits.contiguous(memory_format=logits_layout),
        target.contiguous(memory_format=target_layout),
    )
    expected, wanted = loss_and_gradient(reference.hna_loss, logits.double(), target.double())
    assert grad.is_contiguous(memory_format=logits_layout)
    assert_close("loss", loss, expected, torch.float32)
    assert_close("gradient", grad, wanted, dtype)


def test_without_hard_negatives_it_is_centernets_focal_loss():
    logits, target = inputs(2, 4, 9, 9, spread=2)
    target = target.abs()
    p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = target.eq(1)
    pos_loss = (torch.log(p) * (1 - p) ** 2)[positive].sum()
    neg_loss = (torch.log(1 - p) * p**2 * (1 - target) ** 4)[~positive].sum()
    expected = -(pos_loss + neg_loss) / positive.sum()
    assert_close("loss", ops.hna_loss(logits, target), expected, torch.float64)


@pytest.mark.interpreted
def test_one_cell_of_each_kind_by_hand():
    half = torch.zeros(1, 1, 1, 1, dtype=torch.float64)  # P = 1/2: each term is -w log(2) / 4
    quarter_log = torch.tensor(0.25 * 2.0).log().neg().item() / 4
    for target, weight in ((1.0, 1), (-1.0, 128), (0.0, 1), (0.5, 0.5**4), (-0.5, 1.5**4)):
        loss = ops.hna_loss(half, torch.full_like(half, target))
        assert loss.item() == pytest.approx(weight * quarter_log)


@pytest.mark.interpreted
def test_only_ones_are_positives():
    logits = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    target = torch.tensor([1.0, 1 - 1e-9, 1 - 1e-9, 1.0], dtype=torch.float64).view(1, 1, 1, 4)
    for function in (ops.hna_loss, reference.hna_loss):  # two of log(2) / 4, over two
        assert function(logits, target).item() == pytest.approx(math.log(2) / 4, rel=1e-12)


@pytest.mark.interpreted
def test_exponents_are_not_rounded_to_float32():
    half = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    for target, weight in ((-1.0, 2.0**7.3), (-0.5, 1.5**4.1)):
        exact = weight * 0.5**1.3 * torch.tensor(2.0, dtype=torch.float64).log().item()
        for function in (ops.hna_loss, reference.hna_loss):
            loss = function(half, torch.full_like(half, target), alpha=1.3, beta=7.3, gamma=4.1)
            assert loss.item() == pytest.approx(exact, rel=1e-14)


@pytest.mark.interpreted
def test_no_positive_counts_as_one():
    logits, target = inputs(1, 3, 8, 8)
    target = target.clamp(max=0.5)
    one = target.clone()
    one[0, 0, 0, 0] = 1
    logits[0, 0, 0, 0] = 2000  # a certain positive: its term is next to nothing
    target[0, 0, 0, 0] = 1 - 1e-9
    assert ops.hna_loss(logits, target).item() == pytest.approx(
        ops.hna_loss(logits, one).item(), rel=1e-9
    )


@pytest.mark.interpreted
def test_gradient_is_zero_where_the_clamp_is_active():
    logits = torch.tensor([-2000.0, -20.0, -9.3, 9.3, 20.0, 2000.0]).view(1, 1, 1, 6)
    for value in (-1.0, 0.0, 1.0):
        _, grad = loss_and_gradient(ops.hna_loss, logits, torch.full_like(logits, value))
        assert not grad.any()


@pytest.mark.interpreted
def test_nan_reaches_loss_and_gradient():
    logits, target = (t.float() for t in inputs(1, 2, 5, 5))
    for spoiled, powers in ((logits, {}), (target, {}), (target, {"gamma": 2.5})):
        kept = spoiled[0, 1, 2, 3].clone()
        spoiled[0, 1, 2, 3] = torch.nan
        loss, grad = loss_and_gradient(ops.hna_loss, logits, target, **powers)
        assert loss.isnan()
        assert grad.isnan().sum() == 1
        assert grad[0, 1, 2, 3].isnan()
        spoiled[0, 1, 2, 3] = kept


@pytest.mark.interpreted
def test_gradient_is_scaled_by_what_follows():
    logits, target = inputs(1, 2, 5, 5)
    _, grad = loss_and_gradient(ops.hna_loss, logits, target)
    _, scaled = loss_and_gradient(lambda x, t: 3 * ops.hna_loss(x, t), logits, target)
    assert_close("gradient", scaled, 3 * grad, torch.float64)


@pytest.mark.interpreted({"dtype": torch.float16})  # it cuts bfloat16 off, a device rounds
@pytest.mark.parametrize("target_layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_loss_scale_comes_before_the_rounding(dtype, layout, target_layout):
    """Half logits, the loss outside of autocast, GradScaler's first factor: the gradients are
    those of float64 rounded once, where most underflow without the factor."""
    logits = (randn(3, 4, 19, 23, scale=2.0) - 6).to(dtype).contiguous(memory_format=layout)
    target = torch.zeros(3, 4, 19, 23).contiguous(memory_format=target_layout)
    target[:, :, 3] = 1
    target[:, :, 5, ::3] = -1

    def scaled(function):
        return lambda x: 65536.0 * function(x, target.to(torch.promote_types(x.dtype, torch.float)))

    _, (grad,) = value_and_gradients(scaled(ops.hna_loss), [logits])
    _, (wide,) = value_and_gradients(scaled(reference.hna_loss), [logits.double()])
    kept = wide.to(dtype) != 0
    assert grad.dtype == dtype
    assert torch.equal(grad != 0, kept)
    # A unit in the last place: the arithmetic in float32 may be on the other side of a tie.
    unit = torch.finfo(dtype).eps * wide.abs().clamp(min=torch.finfo(dtype).smallest_normal)
    assert ((grad.double() - wide).abs() <= 0.51 * unit).all()
    assert ((wide / 65536).to(dtype) == 0)[kept].any() == (dtype == torch.float16)


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_backward_can_run_again_where_the_graph_is_kept(dtype):
    logits, target = (t.to(dtype) for t in inputs(1, 2, 5, 5))
    logits.requires_grad_()
    loss = 3 * ops.hna_loss(logits, target)
    grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0]]
    first = grads[0].clone()
    grads += torch.autograd.grad(loss, logits, retain_graph=True)
    grads += torch.autograd.grad(loss, logits)
    for grad in grads:
        assert torch.equal(grad, first)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


@pytest.mark.interpreted
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_gradient_is_the_only_map(dtype, layout):
    """Beside logits and target; half types make it where backward runs."""
    logits, target = (t.to(dtype) for t in inputs(2, 3, 6, 5))
    logits = logits.contiguous(memory_format=layout).requires_grad_()
    stored = []

    def store(tensor):
        if tensor.numel() > 1 and tensor.data_ptr() not in (logits.data_ptr(), target.data_ptr()):
            stored.append(tensor.data_ptr())
        return tensor

    for factor in (1, 0.3):
        stored.clear()
        with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
            loss = ops.hna_loss(logits, target)
        (grad,) = torch.autograd.grad(factor * loss, logits)
        assert stored == ([grad.data_ptr()] if dtype in (torch.float32, torch.float64) else [])
        _, want = loss_and_gradient(
            lambda x, t, factor=factor: factor * reference.hna_loss(x, t), logits.double(), target
        )
        assert_close("gradient", grad, want, dtype)


@pytest.mark.interpreted
def test_a_stored_gradient_with_gaps_is_not_overwritten():
    """What unpacks saved tensors may return others than were stored."""
    logits, target = inputs(1, 2, 5, 6)
    _, want = loss_and_gradient(lambda x, t: 3 * ops.hna_loss(x, t), logits, target)
    logits.requires_grad_()
    unpacked = torch.full((1, 2, 5, 12), torch.nan, dtype=torch.float64)

    def unpack(tensor):
        if tensor.numel() == 1 or tensor.data_ptr() in (logits.data_ptr(), target.data_ptr()):
            return tensor
        unpacked[..., ::2] = tensor
        return unpacked[..., ::2]

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        loss = ops.hna_loss(logits, target)
    (grad,) = torch.autograd.grad(3 * loss, logits)
    assert torch.equal(grad, want)
    assert unpacked[..., 1::2].isnan().all()


@pytest.mark.interpreted
def test_batched_gradients():
    logits, target = inputs(1, 2, 5, 5)
    _, want = loss_and_gradient(ops.hna_loss, logits, target)
    logits.requires_grad_()
    factors = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    (grads,) = torch.autograd.grad(
        ops.hna_loss(logits, target), logits, factors, is_grads_batched=True
    )
    assert torch.equal(grads, want * factors.view(3, 1, 1, 1, 1))


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_by_a_checkpoint(reentrant):
    logits, target = inputs(1, 2, 5, 5)
    _, want = loss_and_gradient(lambda x, t: 3 * ops.hna_loss(2 * x, t), logits, target)
    _, grad = loss_and_gradient(
        lambda x, t: (
            3 * checkpoint(lambda x, t: ops.hna_loss(2 * x, t), x, t, use_reentrant=reentrant)
        ),
        *(logits, target),
    )
    assert torch.equal(grad, want)


def test_gradcheck():
    logits, target = inputs(2, 3, 4, 3, spread=1.5)
    logits.requires_grad_()
    for powers in POWERS[:2]:
        assert torch.autograd.gradcheck(
            lambda x, powers=powers: ops.hna_loss(x, target, **powers), [logits]
        )


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_same_bits_for_any_number_of_threads(layout):
    logits, target = (t.float() for t in inputs(2, 19, 61, 47))
    logits = logits.contiguous(memory_format=layout)
    assert_same_bits(lambda: loss_and_gradient(ops.hna_loss, logits, target))


def test_large_maps_do_not_lose_small_terms():
    """Two million equal terms: a plain float32 sum would be off by percents."""
    logits = torch.full((2, 61, 128, 128), -2.0)
    target = torch.zeros_like(logits)
    with threads(2):
        loss = ops.hna_loss(logits, target)
    expected = reference.hna_loss(logits.double(), target.double())
    assert_close("loss", loss, expected, torch.float32)


@pytest.mark.interpreted
def test_autocast_computes_in_float32():
    logits, target = (t.bfloat16() for t in inputs(2, 3, 5, 5))
    with torch.autocast("cpu", torch.bfloat16):
        loss, grad = loss_and_gradient(ops.hna_loss, logits, target.float())
    assert loss.dtype == torch.float32
    assert grad.dtype == torch.bfloat16
    expected, _ = loss_and_gradient(ops.hna_loss, logits.float(), target.float())
    assert torch.equal(loss, expected)


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"target": torch.zeros(2, 3, 5, 4)},
            ValueError,
            r"target .*\(2, 3, 5, 4\).*\(2, 3, 5, 5\)",
        ),
        ({"logits": torch.zeros(3, 5)}, ValueError, "logits .*4 dimensions"),
        ({"target": torch.zeros(2, 3, 5, 5).double()}, TypeError, "target .*float64"),
        ({"logits": torch.zeros(2, 3, 5, 5).int()}, TypeError, "logits .*int32"),
        ({"alpha": float("nan")}, ValueError, "alpha is nan"),
        ({"beta": float("inf")}, ValueError, "beta is inf"),
        ({"gamma": -1.0}, ValueError, "gamma is -1"),
        ({"eps": 0.5}, ValueError, "eps is 0.5"),
        ({"eps": 0.0}, ValueError, "eps is 0"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    logits, target = (t.float() for t in inputs(2, 3, 5, 5))
    with pytest.raises(error, match=message):
        ops.hna_loss(**({"logits": logits, "target": target} | change))

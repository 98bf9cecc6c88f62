"""The CUDA text of the loss, executed, against the reference in float64."""

import numpy as np
import pytest
import torch
from arrays import ORDERS, TYPES, from_array, garbage, rounded, to_array
from tolerances import LOSS, LOSS_GRADIENT, PLAIN_GRADIENT

from ggnet import reference

PAPER = {"alpha": 2.0, "beta": 7.0, "gamma": 4.0, "eps": 1e-4}
OTHER = {"alpha": 1.5, "beta": 3.0, "gamma": 2.5, "eps": 1e-3}
SHAPES = [(1, 3, 5, 7), (3, 2, 9, 4), (2, 40, 9, 11), (1, 37, 8, 16), (1, 1, 1, 1)]


def problem(shape, dtype, seed=0):
    """Logits, and a target with positives, hard negatives and everything between."""
    generator = torch.Generator().manual_seed(seed)
    logits = rounded(4 * torch.randn(*shape, generator=generator), dtype)
    target = torch.rand(*shape, generator=generator) * 2 - 1
    kind = torch.randint(0, 8, shape, generator=generator)
    target[kind == 0], target[kind == 1], target[kind == 2] = 1.0, -1.0, 0.0
    return logits, rounded(target, dtype)


def run(
    simt,
    logits,
    target,
    dtype,
    parameters,
    *,
    layout="rows",
    float_target=False,
    grad=True,
    **scale,
):
    """(loss, gradient in float64). layout: rows; last: channels_last; turned: logits only.

    scale: positives and factor of hna_loss_gradient, which gives no loss.
    """
    b, v, h, w = logits.shape
    arrange = {"rows": (0, 1, 2, 3), "last": (0, 2, 3, 1)}
    of_logits = arrange["rows" if layout == "rows" else "last"]
    of_target = arrange["last" if layout == "last" else "rows"]
    out = garbage(tuple(logits.permute(of_logits).shape), dtype) if grad else None
    function = simt.hna_loss_gradient if scale else simt.hna_loss
    loss = function(
        type=dtype,
        batch=b,
        channels=v,
        cells=h * w,
        logits=to_array(logits.permute(of_logits), dtype),
        target=to_array(target.permute(of_target), "float32" if float_target else dtype),
        grad=out,
        channels_last=layout != "rows",
        target_channels_last=layout == "last",
        target_is_float=float_target,
        **parameters,
        **scale,
    )
    if grad:
        out = from_array(out, dtype)
        out = out if layout == "rows" else out.permute(0, 3, 1, 2)
    return loss, out


def exact(logits, target, parameters):
    logits = logits.clone().requires_grad_()
    loss = reference.hna_loss(logits, target, **parameters)
    loss.backward()
    return loss.item(), logits.grad


@pytest.mark.parametrize("layout", ["rows", "last", "turned"])
@pytest.mark.parametrize("parameters", [PAPER, OTHER], ids=["paper", "other"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradient_equal_the_reference(simt, shape, dtype, parameters, layout):
    logits, target = problem(shape, dtype)
    loss, grad = exact(logits, target, parameters)
    results = []
    for order in ORDERS:
        simt.configure(workers=2, **order)
        results.append(run(simt, logits, target, dtype, parameters, layout=layout))
    for got_loss, got_grad in results:
        assert got_loss == pytest.approx(loss, rel=LOSS)
        error = (got_grad - grad).abs() / grad.abs().clamp_min(grad.abs().max() * 1e-2)
        assert error.nan_to_num(nan=torch.inf).max() < LOSS_GRADIENT[dtype] * 4
        # No sum depends on the order of blocks or threads.
        assert got_loss == results[0][0]
        assert torch.equal(got_grad, results[0][1])


@pytest.mark.parametrize("layout", ["rows", "last", "turned"])
@pytest.mark.parametrize("parameters", [PAPER, OTHER], ids=["paper", "other"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_gradient_with_a_factor_is_rounded_once(simt, shape, dtype, parameters, layout):
    logits, target = problem(shape, dtype)
    logits -= 6  # small gradients: without the factor many underflow
    logits = rounded(logits, dtype)
    _, grad = exact(logits, target, parameters)
    _, got = run(
        *(simt, logits, target, dtype, parameters),
        layout=layout,
        factor=512.0,
        positives=int((target == 1).sum()),
    )
    wide, finfo = 512 * grad, torch.finfo(getattr(torch, dtype))
    unit = finfo.eps * wide.abs().clamp_min(finfo.smallest_normal)
    assert ((got - wide).abs() <= 0.51 * unit).all()


@pytest.mark.parametrize("layout", ["rows", "last", "turned"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_logits_take_a_float_target(simt, dtype, layout):
    logits, _ = problem((2, 5, 6, 7), dtype)
    target = problem((2, 5, 6, 7), "float32", seed=1)[1]
    loss, _ = exact(logits, target, PAPER)
    got, _ = run(simt, logits, target, dtype, PAPER, layout=layout, float_target=True)
    assert got == pytest.approx(loss, rel=LOSS)


@pytest.mark.parametrize("layout", ["rows", "turned"])
def test_without_positives_the_sum_is_over_one(simt, layout):
    logits, target = problem((1, 3, 4, 5), "float32")
    target[target == 1] = 0.5
    loss, grad = run(simt, logits, target, "float32", PAPER, layout=layout)
    expected, expected_grad = exact(logits, target, PAPER)
    assert loss == pytest.approx(expected, rel=LOSS)
    torch.testing.assert_close(grad, expected_grad, **PLAIN_GRADIENT)


def test_extreme_logits_are_clamped_and_nan_is_seen(simt):
    logits = torch.tensor([-1e30, -torch.inf, -20.0, 20.0, torch.inf, 3e38]).view(1, 1, 2, 3)
    target = torch.tensor([1.0, 1, -1, 0.5, -1, 1]).view(1, 1, 2, 3)
    loss, grad = run(simt, logits.double(), target.double(), "float32", PAPER)
    assert loss == pytest.approx(exact(logits.double(), target.double(), PAPER)[0], rel=LOSS)
    assert (grad == 0).all()
    logits[0, 0, 1, 1] = torch.nan
    loss, grad = run(simt, logits.double(), target.double(), "float32", PAPER)
    assert np.isnan(loss)
    assert grad.isnan().sum() == 1


def test_no_gradient_unless_asked_for(simt):
    logits, target = problem((1, 3, 4, 5), "float32")
    loss, grad = run(simt, logits, target, "float32", PAPER, grad=False)
    assert grad is None
    assert loss == run(simt, logits, target, "float32", PAPER)[0]


def test_no_cells_give_no_loss(simt):
    loss, _ = run(simt, torch.zeros(0, 3, 4, 5), torch.zeros(0, 3, 4, 5), "float32", PAPER)
    assert loss == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_backward_scales(simt, dtype):
    grad = rounded(torch.randn(1003, generator=torch.Generator().manual_seed(0)), dtype)
    out = garbage((1003,), dtype)
    simt.hna_loss_backward(
        type=dtype, grad=to_array(grad, dtype), factor=0.375, out=out, total=1003
    )
    assert torch.equal(from_array(out, dtype), rounded(grad * 0.375, dtype))

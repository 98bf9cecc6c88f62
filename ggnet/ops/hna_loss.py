"""Hard-negative attentive loss: GGNet (CVPR 2021), Eq. 4."""

from functools import partial

import torch
from torch import Tensor

from ggnet.ops import _check, _layout
from ggnet.ops._autocast import register_autocast
from ggnet.ops._backend import resolve_operator
from ggnet.ops._double_backward import refuse_double_backward


def hna_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 7.0,
    gamma: float = 4.0,
    eps: float = 1e-4,
) -> Tensor:
    """Focal loss of heatmaps whose hard negatives weigh more than the background.

    With P = sigmoid(logits) clamped to [eps, 1 - eps] and M = target, each cell contributes

        M = 1        (1 - P)^alpha log(P)
        M = -1       (1 - M)^beta  P^alpha log(1 - P)
        otherwise    (1 - M)^gamma P^alpha log(1 - P)

    and the loss is minus their sum over N = max(1, number of cells with M = 1). Without cells of -1
    it is CenterNet's focal loss. One pass computes the loss and its gradient; N is counted on the
    device; the sum's order is fixed, so the result is reproducible bit by bit.

    Differentiable in the logits, once: for second derivatives call `ggnet.reference.hna_loss`; no
    gradient flows to the target, and none where the clamp is active. Under autocast both tensors
    are cast to float32.

    Args:
        logits: (B, V, H, W), float32, bfloat16, float16, or float64 on the CPU.
        target: (B, V, H, W) in [-1, 1], of the same dtype or float32.
        alpha, beta, gamma: powers, at least 0.
        eps: distance from 0 and 1 that P keeps, in (0, 0.5).

    Returns:
        The scalar loss: float64 for float64 logits, float32 for all others.

    Raises:
        ValueError: shapes or devices that differ, a parameter out of range, or 2**31 elements.
        TypeError: a dtype that does not fit.
        BackendError: no kernel for this device, or not in the chosen backend.
    """
    _check.tensor("logits", logits, 4)
    _check.shape("target", target, logits.shape, "the shape of logits")
    _check.floating("logits", logits)
    _check.same_device("logits", logits, target=target)
    if target.dtype != torch.float32:
        _check.like("logits", logits, target=target)
    _check.number("alpha", alpha, 0)
    _check.number("beta", beta, 0)
    _check.number("gamma", gamma, 0)
    _check.number("eps", eps)
    if not 0 < eps < 0.5:
        raise ValueError(f"eps is {eps}; expected a number between 0 and 0.5")
    operator = resolve_operator("hna_loss", logits)
    with_grad = torch.is_grad_enabled() and logits.requires_grad
    return operator(logits, target, alpha, beta, gamma, eps, with_grad)[0]


def _fake(logits, target, alpha, beta, gamma, eps, with_grad):
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return _layout.empty((), logits, dtype=dtype), _layout.gradient(logits, with_grad)


def _fake_backward(grad_loss, grad):
    return _layout.gradient(grad, True)


def _setup_context(ctx, inputs, output) -> None:
    ctx.with_grad = inputs[-1]
    ctx.save_for_backward(output[1])


def _backward(operator, ctx, grad_loss, grad_of_grad):
    if not ctx.with_grad:
        raise RuntimeError(
            "torch.ops.ggnet.hna_loss was called with with_grad=False, so there is no gradient; "
            "call ggnet.ops.hna_loss, which asks for it when the logits require it"
        )
    (grad,) = ctx.saved_tensors
    return operator(grad_loss, grad), *[None] * 6


def register(namespace: str) -> None:
    """Register the fake kernels, autograd and autocast of `namespace`'s operator."""
    torch.library.register_fake(f"{namespace}::hna_loss", _fake)
    torch.library.register_fake(f"{namespace}::hna_loss_backward", _fake_backward)
    backward = partial(_backward, getattr(torch.ops, namespace).hna_loss_backward)
    torch.library.register_autograd(
        f"{namespace}::hna_loss", backward, setup_context=_setup_context
    )
    refuse_double_backward(namespace, "hna_loss")
    register_autocast(namespace, "hna_loss", torch.float32)


register("ggnet")

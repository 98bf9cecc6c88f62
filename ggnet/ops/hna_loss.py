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


def _fake_backward_(grad_loss, grad):
    return None


def _setup_context(ctx, inputs, output) -> None:
    ctx.with_grad = inputs[-1]
    # The second output is the graph's own, which its backward may overwrite. Nothing flows back
    # through it, and no map of zeros is made to say so.
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward(scaled, scale_, ctx, grad_loss, _):
    if not ctx.with_grad:
        raise RuntimeError(
            "torch.ops.ggnet.hna_loss was called with with_grad=False, so there is no gradient; "
            "call ggnet.ops.hna_loss, which asks for it when the logits require it"
        )
    if grad_loss is None:
        return (None,) * 7
    (grad,) = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph: the operator refuses when it is differentiated
        grad = scaled(grad_loss, grad.requires_grad_())
    elif _may_overwrite(grad, grad_loss):
        scale_(grad_loss, grad)
    else:
        grad = scaled(grad_loss, grad)
    return grad, *[None] * 6


def _may_overwrite(grad: Tensor, grad_loss: Tensor) -> bool:
    """Whether this backward pass is the last to read the stored gradient and can scale it in place.

    A graph that is kept (retain_graph) may be run again. Compilers, which pass subclasses of
    Tensor, place results themselves and need an operator without side effects; so does vmap
    (is_grads_batched), whose result is larger.
    """
    return (
        not torch.compiler.is_compiling()
        and type(grad) is Tensor
        and not torch._C._functorch.is_legacy_batchedtensor(grad_loss)
        and not torch._C._autograd._get_current_graph_task_keep_graph()
        and grad.is_contiguous(memory_format=_layout.memory_format(grad))
    )


def register(namespace: str) -> None:
    """Register the fake kernels, autograd and autocast of `namespace`'s operator."""
    operators = getattr(torch.ops, namespace)
    torch.library.register_fake(f"{namespace}::hna_loss", _fake)
    torch.library.register_fake(f"{namespace}::hna_loss_backward", _fake_backward)
    torch.library.register_fake(f"{namespace}::hna_loss_backward_", _fake_backward_)
    backward = partial(_backward, operators.hna_loss_backward, operators.hna_loss_backward_)
    torch.library.register_autograd(
        f"{namespace}::hna_loss", backward, setup_context=_setup_context
    )
    refuse_double_backward(namespace, "hna_loss")
    register_autocast(namespace, "hna_loss", torch.float32)


register("ggnet")

"""Hard-negative attentive loss: GGNet (CVPR 2021), Eq. 4."""

from functools import partial

import torch
from torch import Tensor

from ggnet import reference
from ggnet.ops import _check, _composite, _layout
from ggnet.ops._autograd import refuse_double_backward, register_autograd
from ggnet.ops._backend import resolve_operator


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
    it is CenterNet's focal loss. N is counted on the device; the sum's order is fixed, so the
    result is reproducible bit by bit. In float32 and float64 one pass computes the loss and its
    gradient. In half types the gradient is computed where it is asked for: multiplied by all that
    follows the loss, a loss scale for example, and then rounded, once.

    Differentiable in the logits; no gradient flows to the target, and none where the clamp is
    active. Second derivatives, forward mode and torch.func run plain torch operations in float64.
    All arithmetic is in float32 at least, under autocast as without.

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
    alpha = _check.number("alpha", alpha, 0)
    beta = _check.number("beta", beta, 0)
    gamma = _check.number("gamma", gamma, 0)
    eps = _check.number("eps", eps)
    if not 0 < eps < 0.5:
        raise ValueError(f"eps is {eps}; expected a number between 0 and 0.5")
    operator = resolve_operator("hna_loss", logits)
    if _composite.needed(logits, target):
        loss = _composite_loss(logits.double(), target, alpha, beta, gamma, eps)
        return loss.to(_loss_dtype(logits))
    stored = logits.dtype in (torch.float32, torch.float64)
    with_grad = stored and torch.is_grad_enabled() and logits.requires_grad
    return operator(logits, target, alpha, beta, gamma, eps, with_grad)[0]


def _composite_loss(logits, target, alpha, beta, gamma, eps):
    target = target.detach().double()
    return reference.hna_loss(logits, target, alpha=alpha, beta=beta, gamma=gamma, eps=eps)


def _loss_dtype(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _fake(logits, target, alpha, beta, gamma, eps, with_grad):
    return (
        _layout.empty((), logits, dtype=_loss_dtype(logits)),
        _layout.gradient(logits, with_grad),
        _layout.empty((), logits, dtype=torch.int32),
    )


def _fake_gradient(grad_loss, logits, target, positives, alpha, beta, gamma, eps):
    return _layout.gradient(logits, True)


def _fake_backward(grad_loss, grad):
    return _layout.gradient(grad, True)


def _fake_backward_(grad_loss, grad):
    return None


def _setup_context(ctx, inputs, output) -> None:
    logits, target, *ctx.parameters, ctx.stored = inputs
    _, grad, positives = output
    # The second output is the graph's own, which its backward may overwrite. Nothing flows back
    # through it, and no map of zeros is made to say so.
    ctx.mark_non_differentiable(grad, positives)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, target, grad, positives)


def _backward(operators, ctx, grad_loss, *_):
    if grad_loss is None:
        return (None,) * 7
    logits, target, grad, positives = ctx.saved_tensors
    if torch.is_grad_enabled():  # create_graph
        grad = _differentiable_gradient(grad_loss, logits, target, ctx.parameters)
    elif not ctx.stored:
        grad = operators.hna_loss_gradient(grad_loss, logits, target, positives, *ctx.parameters)
    elif _may_overwrite(grad, grad_loss):
        operators.hna_loss_backward_(grad_loss, grad)
    else:
        grad = operators.hna_loss_backward(grad_loss, grad)
    return grad, *[None] * 6


def _differentiable_gradient(grad_loss, logits, target, parameters):
    wide = logits.double().view_as(logits)
    loss = _composite_loss(wide, target, *parameters)
    (grad,) = torch.autograd.grad(loss, wide, create_graph=True)
    return (grad * grad_loss).to(logits.dtype)


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
    """Register the fake kernels and autograd of `namespace`'s operator."""
    operators = getattr(torch.ops, namespace)
    torch.library.register_fake(f"{namespace}::hna_loss", _fake)
    torch.library.register_fake(f"{namespace}::hna_loss_gradient", _fake_gradient)
    torch.library.register_fake(f"{namespace}::hna_loss_backward", _fake_backward)
    torch.library.register_fake(f"{namespace}::hna_loss_backward_", _fake_backward_)
    register_autograd(namespace, "hna_loss", partial(_backward, operators), _setup_context)
    for derivative in ("hna_loss_gradient", "hna_loss_backward"):
        refuse_double_backward(namespace, "hna_loss", derivative)


register("ggnet")

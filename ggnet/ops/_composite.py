"""Plain torch operations in place of a kernel, where only they have the derivative asked for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad

from ggnet.ops._traced import constant_when_traced

_TRANSFORMS = (TransformType.Vmap, TransformType.Grad, TransformType.Jvp)


def needed(*tensors: Tensor | None) -> bool:
    """Whether torch.func (grad, vmap, jvp and what is made of them) or forward mode is at work."""
    if _transformed():
        return True
    if torch.compiler.is_compiling():  # refuses forward mode itself
        return False
    return forward_ad._current_level >= 0 and any(
        t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors
    )


# Dynamo cannot trace the question, and guards the answer: it guards the stack of transforms.
@constant_when_traced
def _transformed() -> bool:
    stack = torch._C._functorch.get_interpreter_stack()
    return stack is not None and any(level.key() in _TRANSFORMS for level in stack)


def run(function: Callable[..., Tensor], tensors: Sequence[Tensor | None]) -> Tensor:
    """function(*tensors), computed in float32 at least, in the dtype that the operator returns.

    Autocast casts what it would cast for the operator, and nothing inside.
    """
    device = tensors[0].device.type
    dtype = tensors[0].dtype
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    wide = torch.promote_types(dtype, torch.float32)
    with torch.autocast(device, enabled=False):
        inputs = [None if t is None else t.to(dtype).to(wide) for t in tensors]
        return function(*inputs).to(dtype)


def gradients(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    wanted: Sequence[bool],
    grad_output: Tensor,
) -> list[Tensor | None]:
    """The gradients of <function(*tensors), grad_output>, themselves differentiable.

    For the backward pass of an operator that runs with create_graph.
    """
    # Views, as the same tensor may be given twice.
    inputs = [None if t is None else t.view_as(t) for t in tensors]
    leaves = [t for t, want in zip(inputs, wanted, strict=True) if want]
    with torch.autocast(grad_output.device.type, enabled=False):
        found = iter(
            torch.autograd.grad(
                run(function, inputs),
                leaves,
                grad_output,
                create_graph=True,
                materialize_grads=True,
            )
        )
    return [next(found) if want else None for want in wanted]

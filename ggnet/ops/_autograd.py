"""The operators' derivatives as torch knows them, and what it would pass over, refused by name."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Registrations last as long as the library that made them.
_libraries: dict[str, "_Library"] = {}


class _Library(torch.library.Library):
    """Autograd kernels registered in it refuse forward mode, where torch's own give a tangent of
    zero without a word: an input that needs no gradient does not bring them to their Function."""

    def impl(self, op_name: str, fn: Callable, dispatch_key: str = "", **options: bool) -> None:
        operator = f"{self.ns}.{op_name.rpartition('::')[2]}"

        def refusing(*args, **kwargs):
            if forward_ad._current_level >= 0:
                for value in (*args, *kwargs.values()):
                    if isinstance(value, Tensor) and _has_tangent(value):
                        raise RuntimeError(
                            f"torch.ops.{operator} has no forward mode; the functions of ggnet.ops "
                            "have it"
                        )
            return fn(*args, **kwargs)

        super().impl(op_name, refusing, dispatch_key, **options)


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None


def register_autograd(
    namespace: str, op: str, backward: Callable, setup_context: Callable | None = None
) -> None:
    """As torch.library.register_autograd, for operator `op` of `namespace`."""
    if namespace not in _libraries:
        _libraries[namespace] = _Library(namespace, "FRAGMENT")
    torch.library.register_autograd(
        f"{namespace}::{op}", backward, setup_context=setup_context, lib=_libraries[namespace]
    )


def refuse_double_backward(namespace: str, op: str, derivative: str) -> None:
    """Make differentiating the operator `derivative` of `op` raise, and name what to call."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"torch.ops.{namespace}.{derivative} is not differentiable; for second derivatives "
            f"differentiate ggnet.ops.{op} with create_graph=True"
        )

    register_autograd(namespace, derivative, backward)

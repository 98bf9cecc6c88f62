"""Autocast of operators that take a mixture of tensors and numbers."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_library = torch.library.Library("ggnet", "IMPL")


def register_autocast(op: str, dtype: torch.dtype | None = None) -> None:
    """Under autocast, cast the floating-point tensors that `op` gets (float64 stays as it is).

    Args:
        op: the operator's name without its namespace.
        dtype: what to cast to; None: the dtype of the active autocast region.
    """
    for device in ("cpu", "cuda"):
        _library.impl(op, _kernel(op, device, dtype), f"Autocast{device.upper()}")


def _kernel(op: str, device: str, dtype: torch.dtype | None):
    function = getattr(torch.ops.ggnet, op).default
    key = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{device.upper()}"))

    def kernel(*args: Any, **kwargs: Any) -> Any:
        target = dtype or torch.get_autocast_dtype(device)

        def cast(tensor: Tensor) -> Tensor:
            low = tensor.is_floating_point() and tensor.dtype != torch.float64
            return tensor.to(target) if low and tensor.device.type == device else tensor

        with torch._C._ExcludeDispatchKeyGuard(key):
            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
            return function(*args, **kwargs)

    return kernel

"""Autocast of operators that take a mixture of tensors and numbers."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

_libraries: dict[str, torch.library.Library] = {}  # a registration lasts as long as its library


def register_autocast(namespace: str, op: str, dtype: torch.dtype | None = None) -> None:
    """Under autocast, cast the floating-point tensors that `op` gets (float64 stays as it is).

    Args:
        namespace: "ggnet" or that of another backend's operators.
        op: the operator's name in it.
        dtype: what to cast to; None: the dtype of the active autocast region.
    """
    library = _libraries.setdefault(namespace, torch.library.Library(namespace, "IMPL"))
    for device in ("cpu", "cuda"):
        library.impl(op, _kernel(namespace, op, device, dtype), f"Autocast{device.upper()}")


def _kernel(namespace: str, op: str, device: str, dtype: torch.dtype | None):
    function = getattr(getattr(torch.ops, namespace), op).default
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

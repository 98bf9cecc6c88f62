"""The backends: each says where it runs, why not elsewhere, and which of its kernels run."""

import functools
import importlib.util
import os
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Backend:
    """`name`: what users call it; `devices`: types of devices whose tensors it may take."""

    name: str
    devices: tuple[str, ...]

    def why_not(self, op: str, device: str) -> str | None:
        """Why it cannot run `op` on tensors of this device; None if it can. Each call asks."""
        return None if device in self.devices else f"the tensor is on {device}"

    def namespace(self) -> str:
        """Where torch.ops has its operators, loaded."""
        raise NotImplementedError

    def kernels(self, op: str, tensor: Tensor) -> str | None:
        """Which of several kernels would run `op`, `tensor` being its first; None: it has one."""
        return None


class Compiled(Backend):
    """The library of csrc/."""

    @functools.cache  # noqa: B019 - backends live as long as the process
    def why_not(self, op: str, device: str) -> str | None:
        reason = super().why_not(op, device)
        key = reason or torch._C._dispatch_key_for_device(device)
        if reason or torch._C._dispatch_has_kernel_for_dispatch_key(f"ggnet::{op}", key):
            return reason
        return f"the compiled library has no {device} kernel of the operator"

    def namespace(self) -> str:
        return "ggnet"


class Cuda(Compiled):
    """Its deformable operators have kernels of their own for Hopper GPUs."""

    def kernels(self, op: str, tensor: Tensor) -> str | None:
        if op not in ("actpoint_aggregate", "deform_conv2d") or not torch.cuda.is_available():
            return None
        channels = tensor.shape[1] if tensor.dim() == 4 else 0
        half = tensor.dtype in (torch.bfloat16, torch.float16)
        return torch.ops.ggnet.actpoint_kernels(tensor.device.index or 0, half, channels)


class Triton(Backend):
    """The kernels of kernels/."""

    def why_not(self, op: str, device: str) -> str | None:
        if reason := super().why_not(op, device):
            return reason
        if not _has_triton():
            return "triton is not installed (pip install triton)"
        if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "the tensor is on cpu, where only Triton's interpreter runs (TRITON_INTERPRET=1)"
        return None

    def namespace(self) -> str:
        from ggnet import kernels  # importing Triton takes a second

        return kernels.load()


@functools.cache  # looking for a package takes longer than a small operator
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


# The first that can runs, unless the user chooses.
BACKENDS = (
    Compiled("cpu", ("cpu",)),
    Cuda("cuda", ("cuda",)),
    Triton("triton", ("cuda", "cpu")),
)

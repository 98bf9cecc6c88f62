"""Which kernels run: chosen by the tensor's device, by `use_backend`, or by GGNET_BACKEND."""

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

BACKENDS = ("cpu", "cuda", "triton")
OPERATORS = (
    "actpoint_aggregate",
    "deform_conv2d",
    "hna_loss",
    "draw_heatmaps",
    "topk_peaks",
    "match_points",
)
ENVIRONMENT = "GGNET_BACKEND"

_chosen: ContextVar[str | None] = ContextVar("ggnet_backend", default=None)


class BackendError(RuntimeError):
    """No backend can run this operator on this device, or not the one that was chosen."""


@dataclass(frozen=True)
class Resolution:
    """Which backend would run an operator, and why the others would not.

    `backend` is None where none can. `rejected` maps the others to reasons. str() reads well.
    """

    op: str
    device: str
    backend: str | None
    rejected: dict[str, str]

    def __str__(self) -> str:
        head = f"{self.op} on {self.device}: {self.backend or 'no backend can run it'}"
        return "\n".join([head, *(f"  {name}: {why}" for name, why in self.rejected.items())])


def resolve(op: str, tensor: Tensor) -> Resolution:
    """Say which backend would run `op` on the device of `tensor`, and why the others would not.

    Raises:
        ValueError: there is no such operator, or GGNET_BACKEND names no backend.
    """
    if op not in OPERATORS:
        raise ValueError(f"no operator '{op}'; expected one of {', '.join(OPERATORS)}")
    found = _resolve(op, tensor.device.type)
    return Resolution(found.op, found.device, found.backend, dict(found.rejected))


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators of this block, in this thread or task, on one backend and no other.

    Overrides the environment variable GGNET_BACKEND. A choice that cannot run raises
    `BackendError` where an operator is called. A function under torch.compile keeps the choice
    that it was compiled with.

    Args:
        name: "cpu", "cuda" or "triton".

    Raises:
        ValueError: `name` is none of these.
    """
    token = _chosen.set(_valid(name, "use_backend"))
    try:
        yield
    finally:
        _chosen.reset(token)


def resolve_operator(op: str, tensor: Tensor) -> Callable:
    """The operator that runs `op` on the tensor's device: compiled, or Triton's.

    Raises:
        BackendError: none can, or not the one that was chosen.
    """
    device = tensor.device.type
    problem = _problem(op, device)
    if problem is not None:
        raise BackendError(problem)
    return getattr(getattr(torch.ops, _namespace(op, device)), op)


def tf32_allowed(tensor: Tensor) -> bool:
    """Whether torch allows a device to round the factors of this tensor's products to TF32."""
    return (
        tensor.is_cuda and tensor.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    )


# Dynamo traces neither context variables nor the dispatcher's tables, so it takes the answers as
# constants. It cannot take an exception as one, hence the text.
@torch.compiler.assume_constant_result
def _problem(op: str, device: str) -> str | None:
    if device == "meta":  # shapes only
        return None
    resolution = _resolve(op, device)
    return None if resolution.backend else str(resolution)


@torch.compiler.assume_constant_result
def _namespace(op: str, device: str) -> str:
    if device == "meta" or _resolve(op, device).backend != "triton":
        return "ggnet"
    from ggnet import kernels  # importing Triton takes a second

    return kernels.load()


def _resolve(op: str, device: str) -> Resolution:
    return _answer(op, device, _choice(), os.environ.get("TRITON_INTERPRET") == "1")


@functools.cache  # looking for packages takes longer than a small operator
def _answer(op: str, device: str, choice: str | None, interpreted: bool) -> Resolution:
    reasons = {name: _reason(op, name, device, interpreted) for name in BACKENDS}
    if choice is not None:
        for name in BACKENDS:
            if name != choice:
                reasons[name] = reasons[name] or f"'{choice}' was chosen"
    usable = [name for name, reason in reasons.items() if reason is None]
    backend = usable[0] if usable else None
    rejected = {
        name: reason or f"'{backend}' comes first"
        for name, reason in reasons.items()
        if name != backend
    }
    return Resolution(op, device, backend, rejected)


def _reason(op: str, backend: str, device: str, interpreted: bool) -> str | None:
    """Why `backend` cannot run `op` on tensors of `device`; None if it can."""
    if backend == "triton":
        return _triton_reason(device, interpreted)
    if backend != device:
        return f"the tensor is on {device}"
    key = torch._C._dispatch_key_for_device(device)
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"ggnet::{op}", key):
        return f"the compiled library has no {device} kernel of the operator"
    return None


def _triton_reason(device: str, interpreted: bool) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if device == "cuda":
        return None
    if device == "cpu":
        if interpreted:
            return None
        return "the tensor is on cpu, where only Triton's interpreter runs (TRITON_INTERPRET=1)"
    return f"the tensor is on {device}"


def _choice() -> str | None:
    if name := _chosen.get():
        return name
    name = os.environ.get(ENVIRONMENT)
    return _valid(name, ENVIRONMENT) if name else None


def _valid(name: str, where: str) -> str:
    if name == "reference":
        raise ValueError(
            f"{where}: 'reference' cannot be chosen; it is the definition that the kernels are "
            "tested against. Call the functions of ggnet.reference instead"
        )
    if name not in BACKENDS:
        raise ValueError(f"{where}: no backend '{name}'; expected one of {', '.join(BACKENDS)}")
    return name

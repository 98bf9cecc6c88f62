"""Which kernels run: chosen by the tensor's device, by `use_backend`, or by GGNET_BACKEND."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ggnet.ops import _backends
from ggnet.ops._operators import OPERATORS
from ggnet.ops._traced import constant_when_traced

BACKENDS = tuple(backend.name for backend in _backends.BACKENDS)
ENVIRONMENT = "GGNET_BACKEND"

_chosen: ContextVar[str | None] = ContextVar("ggnet_backend", default=None)


class BackendError(RuntimeError):
    """No backend can run this operator on this device, or not the one that was chosen."""


@dataclass(frozen=True)
class Resolution:
    """Which backend would run an operator, and why the others would not.

    `backend` is None where none can. `rejected` maps the others to reasons. `kernels` says which
    of the backend's would run, where it has several, and why. `torchvision` says so where its
    operator is replaced by this one. str() reads well.
    """

    op: str
    device: str
    backend: str | None
    rejected: dict[str, str]
    kernels: str | None = None
    torchvision: str | None = None

    def __str__(self) -> str:
        head = f"{self.op} on {self.device}: {self.backend or 'no backend can run it'}"
        if self.kernels is not None:
            head += f"; kernels: {self.kernels}"
        lines = [head, *(f"  {name}: {why}" for name, why in self.rejected.items())]
        if self.torchvision is not None:
            lines.append(f"  torchvision.ops.{self.op}: {self.torchvision}")
        return "\n".join(lines)


def resolve(op: str, tensor: Tensor) -> Resolution:
    """Say which backend would run `op` on the device of `tensor`, and why the others would not.

    Args:
        op: one of `OPERATORS`.
        tensor: the operator's first; among a backend's kernels, its dtype and channels choose.

    Raises:
        ValueError: there is no such operator, or GGNET_BACKEND names no backend.
    """
    if op not in OPERATORS:
        raise ValueError(f"no operator '{op}'; expected one of {', '.join(OPERATORS)}")
    from ggnet.ops import _torchvision  # which needs this module

    device = tensor.device.type
    backend = _find(op, device)
    resolution = _resolution(op, device, backend, backend and backend.kernels(op, tensor))
    return replace(resolution, torchvision=_torchvision.description(op, device))


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


def resolve_operator(op: str, tensor: Tensor, name: str | None = None) -> Callable:
    """The operator that runs `op` on the tensor's device: compiled, or Triton's.

    `name`: one that belongs to it, such as its backward, instead.

    Raises:
        BackendError: none can, or not the one that was chosen.
    """
    device = tensor.device.type
    problem = _problem(op, device)
    if problem is not None:
        raise BackendError(problem)
    return getattr(getattr(torch.ops, _namespace(op, device)), name or op)


def tf32_allowed(tensor: Tensor) -> bool:
    """Whether torch allows a device to round the factors of this tensor's products to TF32."""
    return (
        tensor.is_cuda and tensor.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
    )


# Dynamo traces neither context variables nor the dispatcher's tables, so it takes the answers as
# constants. It cannot take an exception as one, hence the text.
@constant_when_traced
def _problem(op: str, device: str) -> str | None:
    if device == "meta" or _find(op, device):  # meta: shapes only
        return None
    return str(_resolution(op, device, None))


@constant_when_traced
def _namespace(op: str, device: str) -> str:
    backend = None if device == "meta" else _find(op, device)
    return backend.namespace() if backend else "ggnet"


def _find(op: str, device: str) -> _backends.Backend | None:
    choice = _choice()
    for backend in _backends.BACKENDS:
        if choice in (None, backend.name) and backend.why_not(op, device) is None:
            return backend
    return None


def _resolution(
    op: str, device: str, chosen: _backends.Backend | None, kernels: str | None = None
) -> Resolution:
    choice = _choice()
    rejected = {}
    for backend in _backends.BACKENDS:
        if backend is not chosen:
            reason = (
                f"'{choice}' was chosen" if choice else f"'{chosen and chosen.name}' comes first"
            )
            rejected[backend.name] = backend.why_not(op, device) or reason
    return Resolution(op, device, chosen and chosen.name, rejected, kernels)


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

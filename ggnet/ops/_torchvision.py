"""torchvision's deform_conv2d on this package's kernels, from wherever it is called.

torchvision.ops.deform_conv2d is a thin function around an operator of torch's dispatcher, as is its
backward. Their kernels are replaced there and nothing else: code that imported the function before,
scripted, traced, compiled and exported programs all end in these kernels, and torchvision's own
registrations for autograd and fake tensors stay in force.
"""

import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ggnet.ops._backend import BackendError, tf32_allowed
from ggnet.ops._wanted import wanted_bits
from ggnet.ops.deform_conv2d import checked

_DEVICES = ("cpu", "cuda")
_REFUSALS = (ValueError, TypeError, BackendError)  # of `checked`

_lock = threading.Lock()
_active: list["Replacement"] = []  # the last one's `strict` holds
_library: torch.library.Library | None = None  # torch forgets the kernels with it


class Replacement:
    """What `replace_torchvision` began; the end of a `with` block, or `undo`, ends it."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._noted = False

    @property
    def active(self) -> bool:
        return self in _active

    def undo(self) -> None:
        """Give torchvision its kernels back, unless another replacement is active; again: nothing.

        Compiled and traced programs go back as well: they call the same operator.
        """
        global _library
        with _lock:
            if self.active:
                _active.remove(self)
            if not _active:
                _library = None

    def __enter__(self) -> "Replacement":
        if not self.active:
            raise RuntimeError("this replacement was undone; call replace_torchvision() again")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        state = "active" if self.active else "undone"
        return f"<replace_torchvision(strict={self.strict}), {state}>"

    def refuse(self, reason: Exception) -> None:
        """What ggnet does not take: an error if strict, else a note, once."""
        if self.strict:
            raise BackendError(
                f"ggnet does not take this torchvision.ops.deform_conv2d: {reason}. Without "
                "replace_torchvision(strict=True) torchvision would compute it"
            ) from reason
        if not self._noted:
            self._noted = True
            warnings.warn(f"ggnet leaves a deform_conv2d to torchvision: {reason}", stacklevel=3)


def replace_torchvision(*, strict: bool = False) -> Replacement:
    """Run torchvision.ops.deform_conv2d, and so torchvision.ops.DeformConv2d, on ggnet's kernels.

    From now on, or for a block; in all threads of this process, and those it forks:

        with ggnet.ops.replace_torchvision():    # undone at the end
            model(images)
        ggnet.ops.replace_torchvision()          # until the process ends, or its .undo()

    Forward and backward, wherever the function was imported before, in eager, scripted, traced,
    compiled and exported programs. Signature, shapes, dtypes, the (contiguous) layout and the rules
    of autograd and CUDA's autocast stay torchvision's; on the CPU, where torchvision has neither,
    bfloat16 and float16 work too, and autocast, by the same rule: computed in float32, returned in
    the dtype of the input. May be nested; ends with the last.

    Args:
        strict: what ggnet does not take (float64 on a GPU, 2**31 elements, a device that it has no
            kernels for) is an error where it is called; else torchvision computes it, with a
            warning, once.

    Returns:
        An object with `active`, `undo()` and the end of a `with` block.

    Raises:
        ImportError: torchvision is not installed, or not one for this torch.
        BackendError: later, from a call, if strict.
    """
    global _library
    _require_torchvision()
    replacement = Replacement(strict)
    with _lock:
        if not _active:
            _library = _replace_kernels()
        _active.append(replacement)
    return replacement


def description(op: str, device: str) -> str | None:
    """What `resolve` says of torchvision's operator; None unless it is replaced by `op`."""
    with _lock:
        if op != "deform_conv2d" or device not in _DEVICES or not _active:
            return None
        other = "is an error" if _active[-1].strict else "is torchvision's"
    return f"runs this (replace_torchvision); what ggnet does not take {other}"


def _require_torchvision() -> None:
    try:
        import torchvision
    except Exception as error:  # a RuntimeError where it was built for another torch
        raise ImportError(
            "replace_torchvision needs torchvision, which does not import: "
            f"{type(error).__name__}: {error}. Install the one for torch {torch.__version__} (pip "
            "install torchvision), or call ggnet.ops.deform_conv2d, which needs none"
        ) from error
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        raise ImportError(
            f"replace_torchvision needs torchvision's operators, and torchvision "
            f"{torchvision.__version__} could not load them; install the one for torch "
            f"{torch.__version__}"
        )


def _replace_kernels() -> torch.library.Library:
    library = torch.library.Library("torchvision", "IMPL")
    kernels = {"deform_conv2d": _forward, "_deform_conv2d_backward": _backward}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # it is meant
        for name, kernel in kernels.items():
            for device in _DEVICES:
                if _has(name, key := device.upper()):
                    theirs = torch.library.get_kernel(f"torchvision::{name}", key)
                    call = partial(theirs.call_boxed, _keys(key))
                    library.impl(name, partial(kernel, call), key)
    if not _has("deform_conv2d", "AutocastCPU"):
        library.impl("deform_conv2d", _autocast_cpu, "AutocastCPU")
    return library


def _has(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"torchvision::{name}", key)


def _keys(key: str) -> torch._C.DispatchKeySet:
    return torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))


def _forward(theirs: Callable, *arguments: Any) -> Tensor:
    input, weight, offset, mask, bias, *steps, groups, offset_groups, has_mask = arguments
    mask = mask if has_mask else None
    groups = groups, offset_groups
    try:
        operator, steps = _checked(
            "deform_conv2d", input, offset, weight, bias, steps, mask, groups
        )
    except _REFUSALS as reason:
        _refuse(reason)
        return theirs(*arguments)
    result = operator(input, offset, weight, bias, *steps, mask, tf32=tf32_allowed(input))
    return result.contiguous()  # as torchvision's, and as compiled programs expect


def _backward(theirs: Callable, *arguments: Any) -> tuple[Tensor, ...]:
    grad_output, input, weight, offset, mask, bias, *steps, groups, offset_groups, has_mask = (
        arguments
    )
    used = mask if has_mask else None
    groups = groups, offset_groups
    try:
        operator, steps = _checked(
            "deform_conv2d_backward", input, offset, weight, bias, steps, used, groups
        )
    except _REFUSALS as reason:
        _refuse(reason)
        return theirs(*arguments)
    of_input, of_offset, of_weight, of_bias, of_mask = operator(
        grad_output,
        *(input, offset, weight, used, *steps),
        wanted_bits([True, True, True, True, used is not None]),
        torch.are_deterministic_algorithms_enabled(),
        tf32=tf32_allowed(input),
    )
    if used is None:
        of_mask = torch.zeros_like(mask)
    return tuple(g.contiguous() for g in (of_input, of_weight, of_offset, of_mask, of_bias))


def _checked(
    name: str,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor,
    steps: Sequence[int],
    mask: Tensor | None,
    groups: Sequence[int],
) -> tuple[Callable, tuple[int, ...]]:
    pairs = (tuple(steps[i : i + 2]) for i in (0, 2, 4))
    found = checked(name, input, offset, weight, bias, *pairs, mask)
    of_shapes = input.shape[1] // weight.shape[1], offset.shape[1] // (2 * weight[0, 0].numel())
    if tuple(groups) != of_shapes:
        raise ValueError(f"groups and offset groups are {groups}; the shapes mean {of_shapes}")
    return found


def _refuse(reason: Exception) -> None:
    for replacement in _active[-1:]:  # none: another thread has just undone the last
        replacement.refuse(reason)


def _autocast_cpu(*arguments: Any) -> Tensor:
    """The rule of torchvision's kernel for CUDA."""

    def single(tensor: Tensor) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else tensor.float()

    with torch._C._ExcludeDispatchKeyGuard(_keys("AutocastCPU")):
        result = torch.ops.torchvision.deform_conv2d(*tree_map_only(Tensor, single, arguments))
        return result.to(arguments[0].dtype)

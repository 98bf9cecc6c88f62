"""Argument checks: each names the argument, what it got and what was expected.

They read metadata only, so they hold under fake tensors, torch.compile and torch.export.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MAX_ELEMENTS = 2**31 - 1
FINITE = sys.float_info.max
SINGLE_OR_LESS = (torch.float32, torch.bfloat16, torch.float16)


def tensor(name: str, value: Tensor, dims: int) -> None:
    """A tensor with `dims` dimensions that 32 bits index."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a tensor")
    if value.dim() != dims:
        raise ValueError(f"{name} has shape {_text(value.shape)}; expected {dims} dimensions")
    indexable(name, value.shape)


def shape(name: str, value: Tensor, expected: Sequence[int], meaning: str) -> None:
    """Exactly this shape; `meaning` spells it, for example "(B, 2K, H, W)"."""
    tensor(name, value, len(expected))
    for got, want in zip(value.shape, expected, strict=True):
        if got != want:
            raise ValueError(
                f"{name} has shape {_text(value.shape)}; expected {meaning} = {_text(expected)}"
            )


def indexable(name: str, size: Sequence[int]) -> None:
    """Fewer than 2**31 elements.

    Not in a traced program, which this would tie to a range of sizes; its kernels check it.
    """
    if torch.compiler.is_compiling():
        return
    count = math.prod(size)
    if count > MAX_ELEMENTS:
        raise ValueError(
            f"{name} has shape {_text(size)}, {count} elements; expected fewer than 2**31, "
            "which is what 32 bits index"
        )


def floating(name: str, value: Tensor) -> None:
    """float32, bfloat16 or float16, or float64 on the CPU."""
    if value.dtype not in SINGLE_OR_LESS and not (
        value.dtype == torch.float64 and value.device.type in ("cpu", "meta")
    ):
        raise TypeError(
            f"{name} has dtype {value.dtype} on {value.device.type}; expected float32, bfloat16 "
            "or float16, or float64 on cpu"
        )


def dtype(name: str, value: Tensor, *expected: torch.dtype) -> None:
    if value.dtype not in expected:
        raise TypeError(
            f"{name} has dtype {value.dtype}; expected {' or '.join(map(str, expected))}"
        )


def like(first_name: str, first: Tensor, **others: Tensor | None) -> None:
    """The others are on the device of the first and, unless autocast unifies them, of its dtype."""
    device = first.device.type
    cast = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
    for name, value in others.items():
        if value is None:
            continue
        same_device(first_name, first, **{name: value})
        if value.dtype == first.dtype:
            continue
        if not cast or torch.float64 in (value.dtype, first.dtype):
            raise TypeError(
                f"{name} has dtype {value.dtype}; expected {first.dtype}, that of {first_name}"
            )
        floating(name, value)


def same_device(first_name: str, first: Tensor, **others: Tensor) -> None:
    for name, value in others.items():
        if value.device != first.device:
            raise ValueError(
                f"{name} is on {value.device}; expected {first.device}, that of {first_name}"
            )


def number(name: str, value: float, low: float = -FINITE) -> float:
    """A finite number of at least `low`, also NumPy's, as Python's."""
    if isinstance(value, np.number):
        value = value.item()
    if not isinstance(value, int | float | torch.SymInt | torch.SymFloat):
        raise TypeError(f"{name} is a {type(value).__name__}; expected a number")
    if not low <= value <= FINITE:  # NaN is neither
        bounds = "" if low == -FINITE else f" of at least {low}"
        raise ValueError(f"{name} is {value}; expected a finite number{bounds}")
    return value


def integer(name: str, value: int, low: int) -> int:
    """An integer of at least `low` that fits 32 bits, also NumPy's, as Python's."""
    if isinstance(value, np.integer):
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | torch.SymInt):
        raise TypeError(f"{name} is a {type(value).__name__}; expected an integer")
    if not low <= value <= MAX_ELEMENTS:
        raise ValueError(f"{name} is {value}; expected an integer from {low} to 2**31 - 1")
    return value


def pair(name: str, value: int | Sequence[int], low: int) -> tuple[int, int]:
    """An integer for both dimensions, or one for each (height, width)."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name} is {value}; expected an integer or (height, width)")
        return integer(name, value[0], low), integer(name, value[1], low)
    single = integer(name, value, low)
    return single, single


def _text(size: Sequence[int]) -> str:
    return f"({', '.join(str(side) for side in size)}{',' if len(size) == 1 else ''})"

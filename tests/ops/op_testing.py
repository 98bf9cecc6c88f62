"""What the operators' tests share: seeded inputs, comparisons."""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import tolerances
import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64) * scale


def isas() -> list[str]:
    """Instruction sets whose kernels this machine can run, in the terms of GGNET_CPU_ISA."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        return ["portable"]
    flags = _cpu_flags()
    found = ["portable"]
    if {"avx2", "fma", "f16c"} <= flags:
        found.append("avx2")
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= flags:
        found.append("avx512")
        if "avx512_bf16" in flags:
            found.append("avx512_bf16")
            if {"amx_tile", "amx_bf16"} <= flags:
                found.append("amx_bf16")
    return found


def _cpu_flags() -> set[str]:
    if not os.path.exists("/proc/cpuinfo"):
        return set()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return {
            flag for line in file if line.startswith("flags") for flag in line.split(":")[1].split()
        }


def rounded(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> list[Tensor | None]:
    """Independent leaves of `dtype`."""
    return [None if t is None else t.detach().to(dtype).clone() for t in tensors]


def assert_close(
    name: str, actual: Tensor, expected: Tensor, dtype: torch.dtype, factor: float = 1.0
) -> None:
    """`actual` is within tolerances.CPU of the float64 `expected`; NaN only where it is NaN."""
    assert actual.shape == expected.shape, f"{name}: {actual.shape} is not {expected.shape}"
    actual, expected = actual.detach().double(), expected.detach().double()
    assert torch.equal(actual.isnan(), expected.isnan()), f"{name}: NaN in other places"
    if expected.numel() == 0:
        return
    scale = expected.nan_to_num(0, 0, 0).abs().max().item() or 1.0
    error = (actual - expected).nan_to_num(0).abs().max().item()
    bound = tolerances.CPU[dtype] * factor * scale
    assert error <= bound, f"{name}: error {error:.3g} exceeds {bound:.3g} (scale {scale:.3g})"


def value_and_gradients(
    function: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    grad_output: Tensor | None = None,
) -> tuple[Tensor, list[Tensor | None]]:
    """function(*tensors) and the gradients of <function(*tensors), grad_output>."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in tensors]
    output = function(*leaves)
    output.backward(None if grad_output is None else grad_output.to(output.dtype))
    return output.detach(), [None if leaf is None else leaf.grad for leaf in leaves]


def compare_with_reference(
    operator: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    tensors: Sequence[Tensor | None],
    dtype: torch.dtype,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> None:
    """Value and gradients of `operator` in `dtype` against `reference` in float64.

    4-D tensors come in `memory_format`; results must keep it.
    """
    inputs = [
        t if t is None or t.dim() != 4 else t.contiguous(memory_format=memory_format)
        for t in rounded(tensors, dtype)
    ]
    doubles = rounded(inputs, torch.float64)
    with torch.no_grad():
        there, kink = operator(*inputs) == 0, reference(*doubles) == 0
    # A value that rounding carries over ReLU's kink has the other side's gradient, rightly.
    grad_output = randn(*there.shape, seed=99).to(dtype).masked_fill(there != kink, 0)
    actual, grads = value_and_gradients(operator, inputs, grad_output)
    expected, wanted = value_and_gradients(reference, doubles, grad_output.double())
    assert actual.dtype == dtype
    assert actual.is_contiguous(memory_format=memory_format)
    assert_close("output", actual, expected, dtype)
    for i, (grad, want) in enumerate(zip(grads, wanted, strict=True)):
        if want is not None:
            assert grad.dtype == dtype
            assert_close(f"gradient of argument {i}", grad, want, dtype)


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_same_bits(function: Callable[[], Sequence[Tensor | None]]) -> None:
    """The results are the same, bit for bit, from run to run and for 1, 2 and 3 threads."""
    with threads(1):
        first = function()
    for count in (1, 2, 3):
        with threads(count):
            for one, other in zip(first, function(), strict=True):
                if one is not None:
                    assert torch.equal(one, other), f"differs with {count} threads"


def spoil(points: Tensor) -> Tensor:
    """A copy with some offsets far outside of any map, infinite, or NaN."""
    points = points.clone()
    flat = points.view(-1)
    values = (1e4, -1e4, 3e9, -3e9, 1e30, math.inf, -math.inf, math.nan)
    for i, value in enumerate(values):
        flat[(7919 * (i + 1)) % flat.numel()] = value
    return points

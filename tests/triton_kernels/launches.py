"""What the operators launch at the sizes of GGNet, recorded on meta tensors: nothing runs."""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
import triton
from torch import Tensor

from ggnet import kernels


@dataclass(frozen=True)
class Launch:
    kernel: triton.JITFunction
    configs: list[triton.Config]
    arguments: dict[str, object]

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


@dataclass(frozen=True)
class Case:
    op: str
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    deterministic: bool = False
    offset_groups: int = 1  # of deform_conv2d


CASES = {
    "actpoint_aggregate, bfloat16": Case("actpoint_aggregate", torch.bfloat16),
    "actpoint_aggregate, bfloat16, deterministic": Case(
        "actpoint_aggregate", torch.bfloat16, deterministic=True
    ),
    "actpoint_aggregate, float32": Case("actpoint_aggregate"),
    "actpoint_aggregate, float32 in TF32": Case("actpoint_aggregate", tf32=True),
    "deform_conv2d, bfloat16": Case("deform_conv2d", torch.bfloat16),
    "deform_conv2d, float32, 8 offset groups": Case("deform_conv2d", offset_groups=8),
    "hna_loss, float32": Case("hna_loss"),
    "hna_loss, bfloat16": Case("hna_loss", torch.bfloat16),
    "draw_heatmaps": Case("draw_heatmaps"),
    "topk_peaks, bfloat16": Case("topk_peaks", torch.bfloat16),
    "match_points, float32": Case("match_points"),
}


def launches(case: Case, target: str) -> list[Launch]:
    """What the forward and the backward of a case launch on a target."""
    kernels.load()
    found: list[Launch] = []
    module = importlib.import_module(f"ggnet.kernels.{case.op}")
    launching = [
        importlib.import_module(f"ggnet.kernels.{name}")
        for name in (case.op, "deform_forward", "deform_backward")
    ]
    half = case.op == "hna_loss" and case.dtype != torch.float32
    names = (case.op, f"{case.op}_{'gradient' if half else 'backward'}")
    functions = [getattr(module, name, None) for name in names]
    with contextlib.ExitStack() as patches:
        for place in launching:
            recorder = mock.patch.object(
                place, "wrap_triton", lambda k: Recorder(k, found), create=True
            )
            patches.enter_context(recorder)
        hip = "7.0" if target.startswith("gfx") else None
        patches.enter_context(mock.patch.object(torch.version, "hip", hip))
        # Not through the dispatcher, which would call the fake kernels.
        CALLS[case.op](*(f and f._init_fn for f in functions), case)
    return found


class Recorder:
    """Stands for a wrapped kernel: kernel[grid](...) is written down."""

    def __init__(self, kernel, found: list[Launch]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid) -> Callable:
        tuned = hasattr(self.kernel, "configs")
        function = self.kernel.fn if tuned else self.kernel

        def launch(*args, num_warps: int = 4, **kwargs) -> None:
            default = triton.Config({}, num_warps=num_warps)
            configs = self.kernel.configs if tuned else [default]
            arguments = dict(zip(function.arg_names, args, strict=False)) | kwargs
            self.found.append(Launch(function, configs, arguments))

        return launch


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device="meta")
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _actpoint(op: Callable, backward: Callable, case: Case) -> None:
    features, points, base = (meta(4, c, 128, 128, dtype=case.dtype) for c in (256, 75, 50))
    weight, bias = meta(256, 256, 5, 5, dtype=case.dtype), meta(256, dtype=case.dtype)
    output = op(features, points, weight, bias, base, relu=True, tf32=case.tf32)
    tensors = (output, features, points, weight, base, output)
    backward(*tensors, 15, case.deterministic, tf32=case.tf32)


def _deform(op: Callable, backward: Callable, case: Case) -> None:
    channels = (64, 18 * case.offset_groups, 9 * case.offset_groups)
    input, offset, mask = (meta(4, c, 128, 128, dtype=case.dtype) for c in channels)
    weight, bias = meta(64, 64, 3, 3, dtype=case.dtype), meta(64, dtype=case.dtype)
    steps = (1, 1, 1, 1, 1, 1)
    output = op(input, offset, weight, bias, *steps, mask, tf32=case.tf32)
    tensors = (output, input, offset, weight, mask)
    backward(*tensors, *steps, 31, case.deterministic, tf32=case.tf32)


def _hna(op: Callable, backward: Callable, case: Case) -> None:
    logits = torch.empty(4, 117, 128, 128, dtype=case.dtype, device="meta")
    powers = (2.0, 7.0, 4.0, 1e-4)
    if case.dtype == torch.float32:
        loss, grad, _ = op(logits, logits, *powers, True)
        backward(loss, grad)
    else:  # its gradient is made where backward runs; the loss is as that of float32
        scalar, count = meta(), meta(dtype=torch.int32)
        backward(scalar, logits, logits.float(), count, *powers)


def _draw(op: Callable, _: None, case: Case) -> None:
    numbers = [meta(500, *tail, dtype=torch.int32) for tail in ((4,), (), ())]
    op(*numbers, [4, 117, 128, 128], 6.0, 6.0)


def _peaks(op: Callable, _: None, case: Case) -> None:
    op(torch.empty(4, 117, 128, 128, dtype=case.dtype, device="meta"), 100, 3)


def _match(op: Callable, _: None, case: Case) -> None:
    peaks = [meta(4, 100), *(meta(4, 100, dtype=torch.int64) for _ in range(3))]
    offsets = meta(4, 100, 2)
    op(peaks, peaks, peaks, offsets, offsets, meta(117, 80, dtype=torch.bool), 0, 1)


CALLS = {
    "actpoint_aggregate": _actpoint,
    "deform_conv2d": _deform,
    "hna_loss": _hna,
    "draw_heatmaps": _draw,
    "topk_peaks": _peaks,
    "match_points": _match,
}

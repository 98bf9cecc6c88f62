"""topk_peaks in Triton.

A peak becomes one 64-bit integer, its logit above its complemented index, so that integers order
like (logit descending, index ascending) and no two are equal. Programs sort a tile each and keep
its best k; torch.topk selects among those, exactly.
"""

import torch
import triton
import triton.language as tl
from ggnet.kernels.common import INTERPRET, NAMESPACE, operator, wrap_triton
from torch import Tensor

from ggnet.ops.topk_peaks import register

TILE = 256 if INTERPRET else 1024  # the interpreter sorts slowly
NO_PEAK = tl.constexpr(-(2**63))
LAST = tl.constexpr(2**31 - 1)


@triton.jit
def value_at(logits, at, present):
    """float32; NaN and what is not present are -inf, -0 is 0."""
    value = tl.load(logits + at, mask=present, other=float("-inf")).to(tl.float32)
    value = tl.where(value != value, float("-inf"), value)
    return tl.where(value == 0.0, 0.0, value)


@triton.jit
def peaks_kernel(
    logits,
    keys,  # [B, tiles, KEEP]
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    channels,
    height,
    width,
    radius,
    TILE: tl.constexpr,
    KEEP: tl.constexpr,
):
    tile = tl.program_id(0)
    b = tl.program_id(1)
    index = tile * TILE + tl.arange(0, TILE)
    live = index < channels * height * width
    x = index % width
    y = index // width % height
    origin = b * stride_b + index // (width * height) * stride_c
    value = value_at(logits, origin + y * stride_y + x * stride_x, live)
    highest = value
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            row = y + dy
            column = x + dx
            present = live & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = origin + row * stride_y + column * stride_x
            highest = tl.maximum(highest, value_at(logits, at, present))
    bits = value.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & LAST)
    key = (ordered.to(tl.int64) << 32) | (~index & LAST).to(tl.int64)
    key = tl.where((value == highest) & (value > float("-inf")), key, NO_PEAK)
    key = tl.sort(key, descending=True)
    rank = tl.arange(0, TILE)
    target = keys + (b * tl.num_programs(0) + tile).to(tl.int64) * KEEP + rank
    tl.store(target, key, mask=rank < KEEP)


@triton.jit
def decode_kernel(
    keys, scores, out_channels, ys, xs, count, k, found, height, width, BLOCK: tl.constexpr
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rank = i % k
    here = (i < count) & (rank < found)
    key = tl.load(keys + i // k * found + rank, mask=here, other=NO_PEAK)
    ordered = (key >> 32).to(tl.int32)
    value = (ordered ^ ((ordered >> 31) & LAST)).to(tl.float32, bitcast=True)
    peak = key != NO_PEAK
    index = tl.where(peak, ~key & LAST, 0)
    tl.store(scores + i, tl.where(peak, 1.0 / (1.0 + tl.exp(-value)), 0.0), mask=i < count)
    tl.store(out_channels + i, index // (height * width), mask=i < count)
    tl.store(ys + i, index // width % height, mask=i < count)
    tl.store(xs + i, index % width, mask=i < count)


@operator("topk_peaks")
def topk_peaks(logits: Tensor, k: int, kernel_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if logits.dtype == torch.float64:
        raise TypeError(
            "logits has dtype torch.float64; expected float32, bfloat16 or float16, which the "
            "Triton kernel of topk_peaks takes"
        )
    batch, channels, height, width = logits.shape
    cells = channels * height * width
    scores = torch.zeros((batch, k), dtype=torch.float32, device=logits.device)
    indices = [torch.zeros((batch, k), dtype=torch.int64, device=logits.device) for _ in range(3)]
    if batch > 0 and cells > 0:
        tiles = triton.cdiv(cells, TILE)
        keep = min(k, TILE)
        keys = torch.empty((batch, tiles * keep), dtype=torch.int64, device=logits.device)
        wrap_triton(peaks_kernel)[(tiles, batch)](
            *(logits, keys, *logits.stride(), channels, height, width),
            min(kernel_size // 2, max(height, width)),
            TILE=TILE,
            KEEP=keep,
            num_warps=8,  # a thread sorts four cells: twice the code takes ptxas twice as long
        )
        found = min(k, tiles * keep)
        best = keys.topk(found, dim=1).values
        block = 128
        wrap_triton(decode_kernel)[(triton.cdiv(batch * k, block),)](
            *(best, scores, *indices, batch * k, k, found, height, width), BLOCK=block
        )
    return scores, *indices


register(NAMESPACE)

"""draw_heatmaps in Triton: scatter by integer maximum, so that the points' order cannot matter."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from ggnet.kernels.common import NAMESPACE, operator, wrap_triton
from torch import Tensor

from ggnet.ops.draw_heatmaps import register

BLOCK = 1024
# A cell holds the bits of a value in [0, 1], which order like the value; a positive's lie above
# every negative's.
POSITIVE = tl.constexpr(0x40000000)
SMALLEST = tl.constexpr(0x00800000)  # the bits of the smallest normal float32


@triton.jit
def scatter_kernel(
    centers,
    radii,
    signs,
    cells,
    batch,
    channels,
    height,
    width,
    positive_factor,
    negative_factor,
    BLOCK: tl.constexpr,
):
    point = tl.program_id(0)
    b = tl.load(centers + 4 * point)
    channel = tl.load(centers + 4 * point + 1)
    y = tl.load(centers + 4 * point + 2)
    x = tl.load(centers + 4 * point + 3)
    radius = tl.load(radii + point)
    positive = tl.load(signs + point) > 0
    inside = (b >= 0) & (b < batch) & (channel >= 0) & (channel < channels)
    inside = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width) & (radius >= 0)
    reach = tl.minimum(radius, height + width)  # beyond the map there is nothing to draw
    top = tl.maximum(y - reach, 0)
    left = tl.maximum(x - reach, 0)
    rows = tl.minimum(y + reach, height - 1) - top + 1
    columns = tl.minimum(x + reach, width - 1) - left + 1
    count = tl.where(inside, rows * columns, 0)
    factor = tl.where(positive, positive_factor, negative_factor)
    sigma = (2.0 * radius.to(tl.float32) + 1.0) / factor
    start = (b * channels + channel) * height
    for first in range(0, count, BLOCK):
        i = first + tl.arange(0, BLOCK)
        row = top + i // columns
        column = left + i % columns
        dy = (row - y).to(tl.float32) / sigma
        dx = (column - x).to(tl.float32) / sigma
        value = tl.exp(-0.5 * (dy * dy + dx * dx))
        bits = tl.maximum(value.to(tl.int32, bitcast=True), SMALLEST)
        bits = bits + tl.where(positive, POSITIVE, 0)
        lanes = i < count
        tl.atomic_max(cells + (start + row) * width + column, bits, mask=lanes, sem="relaxed")


@triton.jit
def decode_kernel(cells, out, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    bits = tl.load(cells + i, mask=i < size, other=0)
    positive = bits >= POSITIVE
    value = tl.where(positive, bits - POSITIVE, bits).to(tl.float32, bitcast=True)
    tl.store(out + i, tl.where(positive, value, 0.0 - value), mask=i < size)


@operator("draw_heatmaps")
def draw_heatmaps(
    centers: Tensor,
    radii: Tensor,
    signs: Tensor,
    shape: Sequence[int],
    positive_factor: float,
    negative_factor: float,
) -> Tensor:
    cells = torch.zeros(shape, dtype=torch.int32, device=centers.device)
    out = torch.empty(shape, dtype=torch.float32, device=centers.device)
    size = out.numel()
    if size > 0:
        if centers.shape[0] > 0:
            wrap_triton(scatter_kernel)[(centers.shape[0],)](
                *(centers.contiguous(), radii.contiguous(), signs.contiguous(), cells),
                *(*shape, positive_factor, negative_factor),
                BLOCK=BLOCK,
            )
        wrap_triton(decode_kernel)[(triton.cdiv(size, BLOCK),)](cells, out, size, BLOCK=BLOCK)
    return out


register(NAMESPACE)

"""Modulated deformable convolution in Triton: what the kernels of actpoint_aggregate and
deform_conv2d share.

The same decomposition as csrc/actpoint: an implicit GEMM whose columns never exist in memory. The
order of sums depends on the chosen block sizes, not on the run: results repeat bit by bit for one
choice, which Triton's cache keeps.

Channels are walked in slices. A slice holds channels of one weight group and of one offset group:
it begins anew at every boundary of either, and what it has beyond the next one is zeros. So groups
of fewer channels than a slice has are right, but as slow as if they filled it. Sections have all
these boundaries: C / lcm(groups, offset groups) channels each.

Kernels spell out what `points_of` and `sizes_of` give: Triton takes tuples, but torch.compile,
which has to see the kernels, knows numbers and tensors alone.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

MAX_OUTPUTS = 256  # of a program


@triton.jit
def locate(
    offset,
    base,
    mask,
    offset_b,
    offset_c,
    offset_p,
    base_b,
    base_c,
    base_p,
    mask_b,
    mask_c,
    mask_p,
    pixel,
    pixels,
    k,
    point,
    height,
    width,
    out_height,
    out_width,
    kernel_w,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    HAS_BASE: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SIGMOID: tl.constexpr,
    ACC: tl.constexpr,
):
    """Tap k of each pixel: index of its upper left cell in [B, H, W], the fractions of the way to
    the next row and column, the tap's factor (0 outside), and which of its corners
    (y, x), (y, x+1), (y+1, x), (y+1, x+1) lie in the map. point: its number among the taps of all
    offset groups.
    """
    live = pixel < pixels
    area = out_height * out_width
    b = pixel // area
    cell = pixel % area
    from_offset = offset + b * offset_b + cell * offset_p + 2 * point * offset_c
    dy = tl.load(from_offset, mask=live, other=0.0).to(ACC)
    dx = tl.load(from_offset + offset_c, mask=live, other=0.0).to(ACC)
    if HAS_BASE:
        from_base = base + b * base_b + cell * base_p + 2 * point * base_c
        dy += tl.load(from_base, mask=live, other=0.0).to(ACC)
        dx += tl.load(from_base + base_c, mask=live, other=0.0).to(ACC)
    scale = tl.full(pixel.shape, 1.0, ACC)
    if HAS_MASK:
        from_mask = mask + b * mask_b + cell * mask_p + point * mask_c
        scale = tl.load(from_mask, mask=live, other=0.0).to(ACC)
        if SIGMOID:
            scale = 1.0 / (1.0 + tl.exp(-scale))
    y = (cell // out_width * stride_h - pad_h + k // kernel_w * dilation_h).to(ACC) + dy
    x = (cell % out_width * stride_w - pad_w + k % kernel_w * dilation_w).to(ACC) + dx
    # Written so that NaN is outside. At exactly -1 the sample is zero, but its derivative from the
    # right is not.
    inside = live & (y >= -1.0) & (x >= -1.0) & (y < height) & (x < width)
    y = tl.where(inside, y, 0.0)
    x = tl.where(inside, x, 0.0)
    top = tl.floor(y)
    left = tl.floor(x)
    row = top.to(tl.int32)
    column = left.to(tl.int32)
    upper = inside & (row >= 0)
    lower = inside & (row + 1 < height)
    at_left = column >= 0
    at_right = column + 1 < width
    return (
        (b * height + row) * width + column,
        y - top,
        x - left,
        tl.where(inside, scale, 0.0),
        upper & at_left,
        upper & at_right,
        lower & at_left,
        lower & at_right,
    )


@triton.jit
def corner(features, cell, present, c, end, channels, EVEN_C: tl.constexpr, ACC: tl.constexpr):
    """Channels c of a corner of each pixel, zero outside of the map and from channel `end` on."""
    source = features + cell[:, None] * channels + c[None, :]
    if EVEN_C:
        value = tl.load(source, mask=present[:, None], other=0.0)
    else:
        value = tl.load(source, mask=present[:, None] & (c < end)[None, :], other=0.0)
    return value.to(ACC)


@triton.jit
def product(a, b, sum, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """sum + a @ b. The interpreter's bfloat16 product is wrong: there it is float32's."""
    if INTERPRETED and a.dtype == tl.bfloat16:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), sum)
    return tl.dot(a, b, sum, input_precision=PRECISION, out_dtype=sum.dtype)


@triton.jit
def tile(pointer, rows, row_end, columns, column_end, stride, EVEN: tl.constexpr):
    """A tile of a dense matrix, zeros from the ends on; EVEN: the columns end with the tile."""
    source = pointer + rows[:, None] * stride + columns[None, :]
    if EVEN:
        return tl.load(source, mask=(rows < row_end)[:, None], other=0.0)
    present = (rows < row_end)[:, None] & (columns < column_end)[None, :]
    return tl.load(source, mask=present, other=0.0)


# Channels go in slices of so many bytes, so that a configuration suits every type. A kernel has few
# configurations, so that the choice takes seconds, and curated: each compiles for sm_80, sm_90,
# sm_100 and gfx942 without spills (tests/triton_kernels). The interpreter takes the first.
MAX_SLICE = 128
KEY = ["channels", "outputs", "taps", "SIZE", "PRECISION", "GROUPS", "OFFSET_GROUPS"]


def config(pixels: int, slice_bytes: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_P": pixels, "SLICE": slice_bytes}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


def outputs_block(outputs: int) -> int:
    return max(16, min(MAX_OUTPUTS, triton.next_power_of_2(outputs)))


def groups_of(features: Tensor, weight: Tensor, offset: Tensor) -> dict[str, int]:
    """How often the channels are cut, for each of the three."""
    _, group_channels, kernel_h, kernel_w = weight.shape
    groups = int(features.shape[1] // group_channels)
    offset_groups = int(offset.shape[1] // (2 * kernel_h * kernel_w))
    sections = math.lcm(groups, offset_groups)
    return {"GROUPS": groups, "OFFSET_GROUPS": offset_groups, "SECTIONS": sections}


def sizes_of(features: Tensor, weight: Tensor, offset: Tensor, steps: tuple[int, ...]) -> list[int]:
    outputs, _, kernel_h, kernel_w = weight.shape
    batch, _, out_height, out_width = offset.shape
    pixels = batch * out_height * out_width
    taps = kernel_h * kernel_w
    channels, height, width = features.shape[1:]
    return [
        *(pixels, channels, outputs, taps, height, width, out_height, out_width, kernel_w),
        *steps,
    ]


def points_of(
    offset: Tensor, base: Tensor | None, mask: Tensor | None
) -> tuple[list[Tensor], list[int]]:
    """offset, base and mask (offset in place of those that are missing) and their strides."""
    tensors = [_even_rows(offset if t is None else t) for t in (offset, base, mask)]
    return tensors, [stride for t in tensors for stride in strides_of(t)]


def _even_rows(tensor: Tensor) -> Tensor:
    """The tensor if one stride leads from each pixel to the next, else a copy."""
    if tensor.stride(2) == tensor.shape[3] * tensor.stride(3):
        return tensor
    return tensor.contiguous()


def strides_of(tensor: Tensor) -> tuple[int, int, int]:
    """In elements: of images, channels, pixels."""
    return tensor.stride(0), tensor.stride(1), tensor.stride(3)


def as_features(tensor: Tensor, features: Tensor) -> Tensor:
    """(B, H, W, C) as (B, C, H, W) in the memory format of the features."""
    tensor = tensor.permute(0, 3, 1, 2)
    if features.stride(1) == 1 and not features.is_contiguous():
        return tensor
    return tensor.contiguous()

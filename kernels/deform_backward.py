"""The backward of the deformable convolution in Triton.

backward      a program computes one tap of an offset group for BLOCK_P pixels: the columns'
              gradient, its dot products with the four corners (gradients of offset and mask), and
              the scatter into the features' gradient, the only sum whose order is not fixed unless
              asked
weight_grad   a program owns a tap and a slice of channels for all outputs of their group over a
              fixed share of the pixels; the shares are then added in order
"""

import torch
import triton
import triton.language as tl
from ggnet.kernels.common import (
    INTERPRET,
    channels_adjacent,
    float32_precision,
    size_class,
    tuned,
    wrap_triton,
)
from ggnet.kernels.deform import (
    KEY,
    MAX_SLICE,
    as_features,
    config,
    corner,
    groups_of,
    locate,
    outputs_block,
    points_of,
    product,
    sizes_of,
    strides_of,
    tile,
)
from torch import Tensor

SPLIT_PROGRAMS = 512  # of weight_grad, enough to fill a large device; the same on every device
BACKWARD_CONFIGS = [config(64, 64, 8, 1), config(32, 64, 4, 1), config(32, 64, 4, 2)]
WEIGHT_CONFIGS = [config(32, 128, 8, 2), config(32, 128, 8, 1), config(64, 64, 8, 1)]


@triton.jit
def scatter(
    target,
    value,
    cell,
    present,
    c,
    end,
    channels,
    per_unit,
    FIXED_POINT: tl.constexpr,
    EVEN_C: tl.constexpr,
):
    """Add `value` to channels c of a corner of each pixel."""
    at = target + cell[:, None] * channels + c[None, :]
    if EVEN_C:
        lanes = tl.broadcast_to(present[:, None], value.shape)
    else:
        lanes = present[:, None] & (c < end)[None, :]
    if FIXED_POINT:
        # Integer addition is associative: any order gives the same bits.
        value = (value.to(tl.float64) * per_unit).to(tl.int64)
    tl.atomic_add(at, value, mask=lanes, sem="relaxed")


@tuned(BACKWARD_CONFIGS, key=KEY, reset_to_zero=["grad_features"])
@triton.jit
def backward_kernel(
    grad_out,  # [B * h * w, O]
    features,  # [B, H, W, C]
    offset,
    base,
    mask,
    weight,  # [K * O, C / GROUPS]
    grad_features,  # [B, H, W, C] zeros: float sums, or integers of `per_unit` to 1
    grad_points,  # [B, 2K or 3K, times OFFSET_GROUPS, h, w] in strides: of offset, then of mask
    per_unit,  # [1] float64
    offset_b,
    offset_c,
    offset_p,
    base_b,
    base_c,
    base_p,
    mask_b,
    mask_c,
    mask_p,
    grad_b,
    grad_c,
    grad_p,
    pixels,
    channels,
    outputs,
    taps,
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
    GROUPS: tl.constexpr,
    OFFSET_GROUPS: tl.constexpr,
    SECTIONS: tl.constexpr,
    FEATURES: tl.constexpr,  # wanted gradients
    POINTS: tl.constexpr,
    FIXED_POINT: tl.constexpr,
    EVEN_C: tl.constexpr,
    EVEN_O: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    SIZE: tl.constexpr,
    ONE_TILE: tl.constexpr,  # BLOCK_O holds all outputs of a group
    BLOCK_O: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICE: tl.constexpr,
):
    T: tl.constexpr = features.dtype.element_ty
    ACC: tl.constexpr = tl.float64 if T.primitive_bitwidth == 64 else tl.float32
    BLOCK_C: tl.constexpr = SLICE * 8 // T.primitive_bitwidth
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    point = tl.program_id(1)
    k = point
    offset_group = 0
    if OFFSET_GROUPS > 1:
        k = point % taps
        offset_group = point // taps
    cell, fy, fx, scale, in00, in01, in10, in11 = locate(
        offset, base, mask, offset_b, offset_c, offset_p, base_b, base_c, base_p,
        mask_b, mask_c, mask_p, pixel, pixels, k, point, height, width, out_height, out_width,
        kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
        HAS_BASE, HAS_MASK, SIGMOID, ACC,
    )  # fmt: skip
    up = 1.0 - fy
    left = 1.0 - fx
    units = tl.load(per_unit) if FIXED_POINT else 1.0
    dot00 = tl.zeros((BLOCK_P,), ACC)
    dot01 = tl.zeros((BLOCK_P,), ACC)
    dot10 = tl.zeros((BLOCK_P,), ACC)
    dot11 = tl.zeros((BLOCK_P,), ACC)
    for part in range(SECTIONS // OFFSET_GROUPS):  # sections of the offset group
        section = offset_group * (SECTIONS // OFFSET_GROUPS) + part
        begin = section * (channels // SECTIONS)
        end = begin + channels // SECTIONS
        group = section // (SECTIONS // GROUPS)
        group_begin = group * (channels // GROUPS)
        o = group * (outputs // GROUPS) + tl.arange(0, BLOCK_O)
        o_end = (group + 1) * (outputs // GROUPS)
        if ONE_TILE:
            gradient = tile(grad_out, pixel, pixels, o, o_end, outputs, EVEN_O)
        for first in range(begin, end, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            column = tl.zeros((BLOCK_P, BLOCK_C), ACC)  # gradient of the sample before its weight
            own = c - group_begin
            own_end = end - group_begin
            row = k * outputs
            if ONE_TILE:
                weights = tile(
                    weight, row + o, row + o_end, own, own_end, channels // GROUPS, EVEN_C
                )
                column = product(gradient, weights, column, PRECISION, INTERPRETED)
            else:
                for start in range(0, outputs // GROUPS, BLOCK_O):
                    some = tile(grad_out, pixel, pixels, start + o, o_end, outputs, EVEN_O)
                    weights = tile(
                        weight,
                        row + start + o,
                        row + o_end,
                        own,
                        own_end,
                        channels // GROUPS,
                        EVEN_C,
                    )
                    column = product(some, weights, column, PRECISION, INTERPRETED)
            if POINTS:
                value = corner(features, cell, in00, c, end, channels, EVEN_C, ACC)
                dot00 += tl.sum(column * value, axis=1)
                value = corner(features, cell + 1, in01, c, end, channels, EVEN_C, ACC)
                dot01 += tl.sum(column * value, axis=1)
                value = corner(features, cell + width, in10, c, end, channels, EVEN_C, ACC)
                dot10 += tl.sum(column * value, axis=1)
                value = corner(features, cell + width + 1, in11, c, end, channels, EVEN_C, ACC)
                dot11 += tl.sum(column * value, axis=1)
            if FEATURES:
                share = (scale * up * left)[:, None] * column
                scatter(
                    grad_features, share, cell, in00, c, end, channels, units, FIXED_POINT, EVEN_C
                )
                share = (scale * up * fx)[:, None] * column
                scatter(
                    grad_features,
                    share,
                    cell + 1,
                    in01,
                    c,
                    end,
                    channels,
                    units,
                    FIXED_POINT,
                    EVEN_C,
                )
                below = cell + width
                share = (scale * fy * left)[:, None] * column
                scatter(
                    grad_features, share, below, in10, c, end, channels, units, FIXED_POINT, EVEN_C
                )
                share = (scale * fy * fx)[:, None] * column
                scatter(
                    grad_features,
                    share,
                    below + 1,
                    in11,
                    c,
                    end,
                    channels,
                    units,
                    FIXED_POINT,
                    EVEN_C,
                )
    if POINTS:
        area = out_height * out_width
        target = grad_points + pixel // area * grad_b + pixel % area * grad_p
        live = pixel < pixels
        dy = scale * (left * (dot10 - dot00) + fx * (dot11 - dot01))
        dx = scale * (up * (dot01 - dot00) + fy * (dot11 - dot10))
        tl.store(target + 2 * point * grad_c, dy.to(T), mask=live)
        tl.store(target + (2 * point + 1) * grad_c, dx.to(T), mask=live)
        if HAS_MASK:
            factor = up * (left * dot00 + fx * dot01) + fy * (left * dot10 + fx * dot11)
            if SIGMOID:
                factor *= scale * (1.0 - scale)
            tl.store(target + (2 * taps * OFFSET_GROUPS + point) * grad_c, factor.to(T), mask=live)


@tuned(WEIGHT_CONFIGS, key=KEY)
@triton.jit
def weight_grad_kernel(
    grad_out,  # [B * h * w, O]
    features,  # [B, H, W, C]
    offset,
    base,
    mask,
    partial,  # [splits, K, O, C / GROUPS]
    offset_b,
    offset_c,
    offset_p,
    base_b,
    base_c,
    base_p,
    mask_b,
    mask_c,
    mask_p,
    share,  # pixels of a split
    pixels,
    channels,
    outputs,
    taps,
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
    GROUPS: tl.constexpr,
    OFFSET_GROUPS: tl.constexpr,
    SECTIONS: tl.constexpr,
    EVEN_C: tl.constexpr,
    EVEN_O: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICE: tl.constexpr,
):
    T: tl.constexpr = features.dtype.element_ty
    ACC: tl.constexpr = tl.float64 if T.primitive_bitwidth == 64 else tl.float32
    BLOCK_C: tl.constexpr = SLICE * 8 // T.primitive_bitwidth
    k = tl.program_id(0) % taps
    begin_c = tl.program_id(0) // taps * BLOCK_C
    section = 0
    if SECTIONS > 1:
        tiles = tl.cdiv(channels // SECTIONS, BLOCK_C)
        section = tl.program_id(0) // taps // tiles
        begin_c = section * (channels // SECTIONS) + tl.program_id(0) // taps % tiles * BLOCK_C
    c = begin_c + tl.arange(0, BLOCK_C)
    c_end = (section + 1) * (channels // SECTIONS)
    group = section // (SECTIONS // GROUPS)
    o = group * (outputs // GROUPS) + tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_end = (group + 1) * (outputs // GROUPS)
    point = section // (SECTIONS // OFFSET_GROUPS) * taps + k
    split = tl.program_id(2)
    begin = split * share
    end = tl.minimum(begin + share, pixels)
    sum = tl.zeros((BLOCK_O, BLOCK_C), ACC)
    for first in range(begin, end, BLOCK_P):
        pixel = first + tl.arange(0, BLOCK_P)
        cell, fy, fx, scale, in00, in01, in10, in11 = locate(
            offset, base, mask, offset_b, offset_c, offset_p, base_b, base_c, base_p,
            mask_b, mask_c, mask_p, pixel, end, k, point, height, width, out_height, out_width,
            kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
            HAS_BASE, HAS_MASK, SIGMOID, ACC,
        )  # fmt: skip
        bottom = (fy * scale)[:, None]
        top = scale[:, None] - bottom
        right = fx[:, None]
        sample = (top - top * right) * corner(features, cell, in00, c, c_end, channels, EVEN_C, ACC)
        sample += top * right * corner(features, cell + 1, in01, c, c_end, channels, EVEN_C, ACC)
        below = cell + width
        sample += (bottom - bottom * right) * corner(
            features, below, in10, c, c_end, channels, EVEN_C, ACC
        )
        sample += (
            bottom * right * corner(features, below + 1, in11, c, c_end, channels, EVEN_C, ACC)
        )
        gradient = tile(grad_out, pixel, end, o, o_end, outputs, EVEN_O)
        sum = product(tl.trans(gradient), sample.to(T), sum, PRECISION, INTERPRETED)
    row = (split * taps + k).to(tl.int64) * outputs + o
    own = c - group * (channels // GROUPS)  # among the group's
    target = partial + row[:, None] * (channels // GROUPS) + own[None, :]
    tl.store(target, sum, mask=(o < o_end)[:, None] & (c < c_end)[None, :])


def backward(
    grad_output: Tensor,
    features: Tensor,
    offset: Tensor,
    base: Tensor | None,
    mask: Tensor | None,
    weight: Tensor,
    steps: tuple[int, ...],
    sigmoid: bool,
    wanted: tuple[bool, bool, bool, bool],
    deterministic: bool,
    tf32: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, points (of offset, then of mask, if given), weight and bias.

    `wanted` says which; the others have no elements. The points' is contiguous.
    """
    wants_features, wants_points, wants_weight, wants_bias = wanted
    outputs, _, kernel_h, kernel_w = weight.shape
    batch, offset_channels, out_height, out_width = offset.shape
    channels = features.shape[1]
    groups = groups_of(features, weight, offset)
    group_outputs, section = outputs // groups["GROUPS"], channels // groups["SECTIONS"]
    taps = kernel_h * kernel_w
    pixels = batch * out_height * out_width
    gradient = channels_adjacent(grad_output)  # [B, h, w, O]
    dense = channels_adjacent(features)
    points, point_strides = points_of(offset, base, mask)
    sizes = sizes_of(features, weight, offset, steps)
    block = outputs_block(group_outputs)
    options = {
        "HAS_BASE": base is not None,
        "HAS_MASK": mask is not None,
        "SIGMOID": sigmoid,
        "EVEN_C": section * features.itemsize % MAX_SLICE == 0,
        "EVEN_O": group_outputs % block == 0,
        "PRECISION": float32_precision(tf32),
        "INTERPRETED": INTERPRET,
        "SIZE": size_class(pixels),
        "BLOCK_O": block,
        **groups,
    }
    work = pixels > 0 and outputs > 0 and channels > 0
    sum_dtype = torch.promote_types(features.dtype, torch.float32)

    grad_features = features.new_empty((0,))
    grad_points = features.new_empty((0,))
    if wants_features or wants_points:
        fixed_point = deterministic and wants_features
        sums = torch.zeros_like(
            dense if wants_features else grad_features,
            dtype=torch.int64 if fixed_point else sum_dtype,
        )
        if wants_points:
            grad_points = features.new_zeros(
                (batch, offset_channels // 2 * (2 if mask is None else 3), out_height, out_width)
            )
        unit = features.new_ones((1,), dtype=torch.float64)
        if work:
            if fixed_point:
                terms = out_height * out_width * taps * group_outputs
                unit = _unit(gradient, weight, None if sigmoid else mask, terms)
            # Three-product float32 splits its operands: registers hold 64 outputs of them.
            inner = block if features.itemsize == 2 else min(block, 64)
            points_of_pixel = groups["OFFSET_GROUPS"] * taps
            wrap_triton(backward_kernel)[
                lambda meta: (triton.cdiv(pixels, meta["BLOCK_P"]), points_of_pixel)
            ](
                gradient,
                dense,
                *points,
                weight.flatten(2).permute(2, 0, 1).contiguous(),  # [K, O, C / groups]
                sums,
                grad_points,
                1.0 / unit,
                *point_strides,
                *(strides_of(grad_points) if wants_points else (0, 0, 0)),
                *sizes,
                FEATURES=wants_features,
                POINTS=wants_points,
                FIXED_POINT=fixed_point,
                ONE_TILE=group_outputs <= inner,
                **(options | {"BLOCK_O": inner, "EVEN_O": group_outputs % inner == 0}),
            )
        if wants_features:
            if fixed_point:
                sums = sums.double() * unit
            grad_features = as_features(sums.to(features.dtype), features)

    grad_weight = weight.new_empty((0,))
    if wants_weight:
        grad_weight = torch.zeros_like(weight, memory_format=torch.contiguous_format)
        if work:

            def channel_tiles(slice_bytes: int) -> int:
                return groups["SECTIONS"] * triton.cdiv(section * features.itemsize, slice_bytes)

            programs = taps * channel_tiles(MAX_SLICE)
            splits = min(triton.cdiv(SPLIT_PROGRAMS, programs), triton.cdiv(pixels, 64))
            share = triton.cdiv(triton.cdiv(pixels, splits), 64) * 64
            partial = features.new_empty((splits, taps, outputs, weight.shape[1]), dtype=sum_dtype)
            wrap_triton(weight_grad_kernel)[
                lambda meta: (
                    taps * channel_tiles(meta["SLICE"]),
                    triton.cdiv(group_outputs, block),
                    splits,
                )
            ](gradient, dense, *points, partial, *point_strides, share, *sizes, **options)
            total = partial.sum(0).permute(1, 2, 0).to(weight.dtype)  # torch.sum's order is fixed
            grad_weight = total.reshape(weight.shape).contiguous()

    grad_bias = weight.new_empty((0,))
    if wants_bias:
        rows = gradient.view(-1, outputs) if gradient.numel() else gradient.new_zeros((1, outputs))
        grad_bias = rows.sum(0, dtype=sum_dtype).to(weight.dtype)
    return grad_features, grad_points, grad_weight, grad_bias


def _unit(gradient: Tensor, weight: Tensor, mask: Tensor | None, terms: int) -> Tensor:
    """Of the fixed-point sums: the largest possible one is below 2^62 of it.

    A power of two, so that scaling is exact; NaN if any factor is not finite. The sum's bound is
    largest |gradient| * |weight| * |mask| (at most 1 through a sigmoid) times the number of terms.
    """
    bound = gradient.abs().amax().double() * weight.abs().amax().double() * terms
    if mask is not None:
        bound = bound * mask.abs().amax().double()
    unit = torch.exp2(torch.ceil(torch.log2(bound)) - 61)
    unit = torch.where(bound == 0, 1.0, torch.where(bound.isfinite(), unit, torch.nan))
    return unit.reshape(1)

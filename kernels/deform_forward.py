"""The forward of the deformable convolution in Triton.

A program computes BLOCK_P pixels for all outputs of a weight group (BLOCK_O of them beyond 256), so
a sample is gathered once, interpolated in float32, rounded to the features' own type and multiplied
there, with float32 sums.
"""

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
    tile,
)
from torch import Tensor

FORWARD_CONFIGS = [config(64, 64, 8, 2), config(64, 64, 8, 3), config(32, 64, 8, 2)]


@tuned(FORWARD_CONFIGS, key=KEY)
@triton.jit
def forward_kernel(
    features,  # [B, H, W, C]
    offset,  # [B, 2K * OFFSET_GROUPS, h, w] in strides
    base,  # [B, 2K, h, w] in strides, added to offset
    mask,  # [B, K * OFFSET_GROUPS, h, w] in strides
    weight,  # [K * C / GROUPS, O]
    bias,  # [O]
    out,  # [B * h * w, O]
    offset_b,
    offset_c,
    offset_p,
    base_b,
    base_c,
    base_p,
    mask_b,
    mask_c,
    mask_p,
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
    HAS_BIAS: tl.constexpr,
    RELU: tl.constexpr,
    GROUPS: tl.constexpr,
    OFFSET_GROUPS: tl.constexpr,
    SECTIONS: tl.constexpr,
    EVEN_C: tl.constexpr,
    EVEN_O: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
    SIZE: tl.constexpr,  # only a key of the tuning
    BLOCK_O: tl.constexpr,
    BLOCK_P: tl.constexpr,
    SLICE: tl.constexpr,
):
    T: tl.constexpr = features.dtype.element_ty
    ACC: tl.constexpr = tl.float64 if T.primitive_bitwidth == 64 else tl.float32
    BLOCK_C: tl.constexpr = SLICE * 8 // T.primitive_bitwidth
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    o_end = outputs
    group = 0
    if GROUPS > 1:
        tiles = tl.cdiv(outputs // GROUPS, BLOCK_O)
        group = tl.program_id(1) // tiles
        o = group * (outputs // GROUPS) + tl.program_id(1) % tiles * BLOCK_O + tl.arange(0, BLOCK_O)
        o_end = (group + 1) * (outputs // GROUPS)
    sum = tl.zeros((BLOCK_P, BLOCK_O), ACC)
    for turn in range(taps * (SECTIONS // GROUPS)):  # a tap of a section
        k = turn
        section = group
        if SECTIONS > GROUPS:
            k = turn % taps
            section = group * (SECTIONS // GROUPS) + turn // taps
        point = section // (SECTIONS // OFFSET_GROUPS) * taps + k
        begin = section * (channels // SECTIONS)
        end = begin + channels // SECTIONS
        row = (k - group) * (channels // GROUPS)  # in the weights, of channel 0
        cell, fy, fx, scale, in00, in01, in10, in11 = locate(
            offset, base, mask, offset_b, offset_c, offset_p, base_b, base_c, base_p,
            mask_b, mask_c, mask_p, pixel, pixels, k, point, height, width, out_height, out_width,
            kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
            HAS_BASE, HAS_MASK, SIGMOID, ACC,
        )  # fmt: skip
        bottom = fy * scale
        top = scale - bottom
        w01 = (top * fx)[:, None]
        w11 = (bottom * fx)[:, None]
        w00 = top[:, None] - w01
        w10 = bottom[:, None] - w11
        for first in range(begin, end, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            sample = w00 * corner(features, cell, in00, c, end, channels, EVEN_C, ACC)
            sample += w01 * corner(features, cell + 1, in01, c, end, channels, EVEN_C, ACC)
            sample += w10 * corner(features, cell + width, in10, c, end, channels, EVEN_C, ACC)
            sample += w11 * corner(features, cell + width + 1, in11, c, end, channels, EVEN_C, ACC)
            # Where the slice exceeds the section the sample is zero; the weights that it then
            # meets, the next section's or tap's, are finite or not: masked.
            weights = tile(weight, row + c, row + end, o, o_end, outputs, EVEN_O)
            sum = product(sample.to(T), weights, sum, PRECISION, INTERPRETED)
    if HAS_BIAS:
        sum += tl.load(bias + o, mask=o < o_end, other=0.0).to(ACC)[None, :]
    if RELU:
        sum = tl.where(sum < 0.0, 0.0, sum)  # NaN stays
    target = out + pixel[:, None] * outputs + o[None, :]
    if EVEN_O:
        tl.store(target, sum.to(T), mask=(pixel < pixels)[:, None])
    else:
        tl.store(target, sum.to(T), mask=(pixel < pixels)[:, None] & (o < o_end)[None, :])


def forward(
    features: Tensor,
    offset: Tensor,
    base: Tensor | None,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    steps: tuple[int, ...],
    sigmoid: bool,
    relu: bool,
    tf32: bool,
) -> Tensor:
    """(B, O, h, w) in the memory format of the features; steps: strides, paddings, dilations."""
    batch, _, out_height, out_width = offset.shape
    groups = groups_of(features, weight, offset)
    outputs, group_outputs = weight.shape[0], weight.shape[0] // groups["GROUPS"]
    section = features.shape[1] // groups["SECTIONS"]
    pixels = batch * out_height * out_width
    out = features.new_empty((batch, out_height, out_width, outputs))
    if out.numel() > 0:
        weights = weight.flatten(2).permute(2, 1, 0).contiguous()  # [K, C / groups, O]
        points, point_strides = points_of(offset, base, mask)
        block = outputs_block(group_outputs)
        tiles = groups["GROUPS"] * triton.cdiv(group_outputs, block)
        wrap_triton(forward_kernel)[lambda meta: (triton.cdiv(pixels, meta["BLOCK_P"]), tiles)](
            channels_adjacent(features),
            *points,
            weights,
            weights if bias is None else bias.contiguous(),
            out,
            *point_strides,
            *sizes_of(features, weight, offset, steps),
            HAS_BASE=base is not None,
            HAS_MASK=mask is not None,
            SIGMOID=sigmoid,
            HAS_BIAS=bias is not None,
            RELU=relu,
            EVEN_C=section * features.itemsize % MAX_SLICE == 0,
            EVEN_O=group_outputs % block == 0,
            PRECISION=float32_precision(tf32),
            INTERPRETED=INTERPRET,
            SIZE=size_class(pixels),
            BLOCK_O=block,
            **groups,
        )
    return as_features(out, features)

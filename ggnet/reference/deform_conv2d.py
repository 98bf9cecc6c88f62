"""Modulated deformable convolution (Zhu et al., Deformable ConvNets v2, CVPR 2019)."""

import torch
from torch import Tensor


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Every tap of the kernel reads the input at its regular position plus a learned offset.

    Args:
        input: (B, C, H, W).
        offset: (B, 2GK, Ho, Wo) in cells, K = kh * kw; channels 2(gK + k) and 2(gK + k) + 1 are
            (dy, dx) of tap k, taps row by row, for the g-th C / G channels.
        weight: (O, C / groups, kh, kw): the n-th O / groups outputs see the n-th C / groups
            channels.
        bias: (O,).
        mask: (B, GK, Ho, Wo), factor of each sample; None: 1.

    Returns:
        (B, O, Ho, Wo). Samples are bilinear and zero outside of the open interval
        (-1, H) x (-1, W); a sample whose offset is NaN or infinite is outside. At integer
        positions the gradient of an offset is the derivative from the right.
    """
    (stride_h, stride_w), (pad_h, pad_w) = _pair(stride), _pair(padding)
    dilation_h, dilation_w = _pair(dilation)
    batch, channels, height, width = input.shape
    outputs, group_channels, kernel_h, kernel_w = weight.shape
    out_h, out_w = offset.shape[2:]
    taps = kernel_h * kernel_w
    groups, offset_groups = channels // group_channels, offset.shape[1] // (2 * taps)

    def grid(count: int, step: int, start: int = 0) -> Tensor:
        return torch.arange(count, dtype=input.dtype, device=input.device) * step + start

    maps = batch * offset_groups  # each offset group of an image is a map of its own
    offset = offset.reshape(maps, kernel_h, kernel_w, 2, out_h, out_w)
    y = grid(kernel_h, dilation_h).view(-1, 1, 1, 1) + grid(out_h, stride_h, -pad_h).view(-1, 1)
    x = grid(kernel_w, dilation_w).view(-1, 1, 1) + grid(out_w, stride_w, -pad_w)
    y = (y + offset[:, :, :, 0]).reshape(maps, taps, out_h, out_w)
    x = (x + offset[:, :, :, 1]).reshape(maps, taps, out_h, out_w)

    columns = _bilinear(input.reshape(maps, channels // offset_groups, height, width), y, x)
    if mask is not None:
        columns = columns * mask.reshape(maps, 1, taps, out_h, out_w)
    columns = columns.reshape(batch, groups, group_channels, taps, out_h, out_w)
    weight = weight.reshape(groups, outputs // groups, group_channels, taps)
    output = torch.einsum("bgckyx,gock->bgoyx", columns, weight)
    output = output.reshape(batch, outputs, out_h, out_w)
    return output if bias is None else output + bias.view(-1, 1, 1)


def _bilinear(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(B, C, H, W) sampled at (B, K, Ho, Wo) positions: (B, C, K, Ho, Wo)."""
    height, width = input.shape[2:]
    y = torch.nan_to_num(y, -2.0, -2.0, -2.0).clamp(-2, height + 1)
    x = torch.nan_to_num(x, -2.0, -2.0, -2.0).clamp(-2, width + 1)
    y0, x0 = y.detach().floor(), x.detach().floor()
    fraction_y, fraction_x = y - y0, x - x0
    top, left = y0.long(), x0.long()
    return (
        _corner(input, top, left) * ((1 - fraction_y) * (1 - fraction_x))[:, None]
        + _corner(input, top, left + 1) * ((1 - fraction_y) * fraction_x)[:, None]
        + _corner(input, top + 1, left) * (fraction_y * (1 - fraction_x))[:, None]
        + _corner(input, top + 1, left + 1) * (fraction_y * fraction_x)[:, None]
    )


def _corner(input: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The cells at integer positions, zero outside of the map."""
    batch, channels, height, width = input.shape
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)[:, None]
    cells = input.flatten(2).gather(2, index.expand(-1, channels, -1))
    return cells.view(batch, channels, *y.shape[1:]) * inside[:, None]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])

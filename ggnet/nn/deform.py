"""Deformable convolutions as layers: torchvision's, and mmcv's that predict their own offsets.

Constructors and state dicts are theirs, so a checkpoint of either loads as it is.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ggnet import ops

Pair = int | tuple[int, int]


class DeformConv2d(nn.Module):
    """torchvision.ops.DeformConv2d: the caller brings offsets and mask.

    Also what mmcv calls ModulatedDeformConv2d; its `deform_groups` follow from the offsets.

    Args:
        kernel_size, stride, padding, dilation: a number for both dimensions, or (height, width).
        groups: into as many, of their own weights, channels and outputs are divided.

    Raises:
        ValueError: numbers of channels that the groups do not divide.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        _divides("groups", groups, in_channels=in_channels, out_channels=out_channels)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair(kernel_size)
        self.stride, self.padding, self.dilation = pair(stride), pair(padding), pair(dilation)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch.nn.Conv2d."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Shapes as in `ggnet.ops.deform_conv2d`: (B, C, H, W) -> (B, O, Ho, Wo)."""
        return ops.deform_conv2d(
            input,
            offset,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask,
        )

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}"
        for name, value in {"padding": (0, 0), "dilation": (1, 1), "groups": 1}.items():
            if getattr(self, name) != value:
                text += f", {name}={getattr(self, name)}"
        return text if self.bias is not None else f"{text}, bias=False"


class _Pack(DeformConv2d):
    """Predicts what it needs for each tap from its input; zero at first: a regular grid."""

    maps_per_tap: int

    def __init__(self, *sizes: Any, groups: int, deform_groups: int, bias: bool) -> None:
        super().__init__(*sizes, groups, bias)
        _divides("deform_groups", deform_groups, in_channels=self.in_channels)
        self.deform_groups = deform_groups
        self.taps = deform_groups * math.prod(self.kernel_size)
        self.conv_offset = zero_conv(
            self.in_channels,
            self.maps_per_tap * self.taps,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.deform_groups == 1 else f"{text}, deform_groups={self.deform_groups}"


class ModulatedDeformConv2dPack(_Pack):
    """mmcv's "DCNv2": predicts the offsets and masks of its taps, `conv_offset`, from its input.

    It starts as half of a regular convolution: offsets 0, mask 0.5. The channels of `conv_offset`
    are, for G deform_groups and K taps, 2GK offsets, (dy, dx) of each tap, then GK logits of masks.

    Args:
        kernel_size, stride, padding, dilation: a number for both dimensions, or (height, width).
        groups: into as many, of their own weights, channels and outputs are divided.
        deform_groups: into as many, of their own offsets and masks, the channels are divided.
        bias: whether the output has one; `conv_offset` always does.

    Raises:
        ValueError: numbers of channels that the groups do not divide.
    """

    maps_per_tap = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
    ) -> None:
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation)
        super().__init__(*sizes, groups=groups, deform_groups=deform_groups, bias=bias)

    def reset_parameters(self) -> None:
        """As mmcv: of all input channels, whatever the groups."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, Ho, Wo)."""
        offset, logits = self.conv_offset(input).split([2 * self.taps, self.taps], dim=1)
        return super().forward(input, offset, logits.sigmoid())


class DeformConv2dPack(_Pack):
    """mmcv's "DCN", without masks: predicts the offsets of its taps, `conv_offset`, from its input.

    It starts as a regular convolution. The channels of `conv_offset` are (dy, dx) of each tap, for
    each of the deform_groups. Arguments as of `ModulatedDeformConv2dPack`.

    Raises:
        ValueError: numbers of channels that the groups do not divide.
    """

    maps_per_tap = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
    ) -> None:
        sizes = (in_channels, out_channels, kernel_size, stride, padding, dilation)
        super().__init__(*sizes, groups=groups, deform_groups=deform_groups, bias=bias)

    def reset_parameters(self) -> None:
        """As mmcv."""
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, Ho, Wo)."""
        return super().forward(input, self.conv_offset(input))


def zero_conv(
    in_channels: int, out_channels: int, kernel_size: Pair, **geometry: Pair
) -> nn.Conv2d:
    """A convolution that gives zeros until it is trained."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, **geometry)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def pair(size: Pair) -> tuple[int, int]:
    """(height, width) of a number for both, or two."""
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return int(height), int(width)


def _divides(name: str, groups: int, **channels: int) -> None:
    for what, count in channels.items():
        if groups < 1 or count % groups:
            raise ValueError(f"{name} is {groups}; expected a divisor of {what}, which is {count}")

"""Convolution blocks that several networks share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggnet.models.checkpointing import Recomputing
from ggnet.nn import ModulatedDeformConv2dPack


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A same-padded convolution without bias and its BatchNorm, to unpack into a Sequential."""
    return [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(*conv_bn(in_channels, out_channels, kernel, stride), nn.ReLU(inplace=True))


class DeformNode(nn.Sequential):
    """Deformable 3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            ModulatedDeformConv2dPack(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Aggregate(nn.Module):
    """Iterative deep aggregation: coarser maps are projected, upsampled and merged in turn."""

    def __init__(
        self, out_channels: int, in_channels: tuple[int, ...], factors: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.project = nn.ModuleList(DeformNode(c, out_channels) for c in in_channels)
        self.upsample = nn.ModuleList(_bilinear_upsample(out_channels, f) for f in factors)
        self.merge = nn.ModuleList(DeformNode(out_channels, out_channels) for _ in in_channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps from fine (with out_channels) to coarse -> as many, all of the finest's shape."""
        outputs = maps[:1]
        for index, coarse in enumerate(maps[1:]):
            upsampled = self.upsample[index](self.project[index](coarse))
            outputs.append(self.merge[index](upsampled + outputs[-1]))
        return outputs


class Residual(Recomputing):
    """Two 3x3 convolutions beside a skip, which is projected by 1x1 where the shape changes.

    Its output has `expansion` times `channels` channels.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.body = nn.Sequential(*self._body(in_channels, channels, stride))
        self.skip = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, expansion * channels, H / stride, W / stride)."""
        return self.part(self._sum, x)

    def _sum(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x), inplace=True)

    def _body(self, in_channels: int, channels: int, stride: int) -> list[nn.Module]:
        return [
            *conv_bn(in_channels, channels, 3, stride),
            nn.ReLU(inplace=True),
            *conv_bn(channels, channels, 3),
        ]


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions beside the skip; the last has four times the channels."""

    expansion = 4

    def _body(self, in_channels: int, channels: int, stride: int) -> list[nn.Module]:
        return [
            *conv_bn(in_channels, channels, 1),
            nn.ReLU(inplace=True),
            *conv_bn(channels, channels, 3, stride),
            nn.ReLU(inplace=True),
            *conv_bn(channels, self.expansion * channels, 1),
        ]


def _bilinear_upsample(channels: int, factor: int) -> nn.ConvTranspose2d:
    """A depthwise transposed convolution, learned, that starts as bilinear interpolation."""
    conv = nn.ConvTranspose2d(
        channels, channels, 2 * factor, factor, factor // 2, groups=channels, bias=False
    )
    ramp = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor
    with torch.no_grad():
        conv.weight.copy_(ramp[:, None] * ramp)
    return conv

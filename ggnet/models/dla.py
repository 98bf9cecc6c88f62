"""DLA-34 (Yu et al., CVPR 2018) with CenterNet's deformable upsampling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggnet.models.backbone import Backbone
from ggnet.models.blocks import Aggregate, conv_bn, conv_bn_relu

CHANNELS = (16, 32, 64, 128, 256, 512)  # at strides 1, 2, ..., 32


class Block(nn.Module):
    """Two 3x3 convolutions; the caller brings the residual."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(in_channels, out_channels, 3, stride),
            nn.ReLU(inplace=True),
            *conv_bn(out_channels, out_channels, 3),
        )

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(B, C, H, W) and a residual of the output's shape."""
        return F.relu(self.body(x) + residual, inplace=True)


class Tree(nn.Module):
    """Two blocks whose outputs, and whatever else is handed in, meet in a 1x1 root."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, extra_channels: int = 0
    ) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()
        self.project = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Sequential(*conv_bn(in_channels, out_channels, 1))
        )
        self.first = Block(in_channels, out_channels, stride)
        self.second = Block(out_channels, out_channels)
        self.root = conv_bn_relu(2 * out_channels + extra_channels, out_channels, kernel=1)

    def forward(self, x: Tensor, *extra: Tensor) -> Tensor:
        """(B, C, H, W) and maps of the output's size -> (B, O, H / stride, W / stride)."""
        first = self.first(x, self.project(self.pool(x)))
        second = self.second(first, first)
        return self.root(torch.cat([second, first, *extra], dim=1))


class Level(nn.Module):
    """One or two trees at a stride; the pooled input goes straight to the last root."""

    def __init__(self, in_channels: int, out_channels: int, trees: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        if trees == 1:
            self.trees = nn.ModuleList([Tree(in_channels, out_channels, 2, in_channels)])
        else:
            self.trees = nn.ModuleList(
                [
                    Tree(in_channels, out_channels, stride=2),
                    Tree(out_channels, out_channels, extra_channels=in_channels + out_channels),
                ]
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H / 2, W / 2)."""
        pooled = self.pool(x)
        if len(self.trees) == 1:
            return self.trees[0](x, pooled)
        first = self.trees[0](x)
        return self.trees[1](first, pooled, first)


class DLA34(Backbone):
    """DLA-34: one feature map at stride 4 with 64 channels."""

    size_multiple = 32
    out_channels = CHANNELS[2]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn_relu(3, CHANNELS[0], kernel=7),
            conv_bn_relu(CHANNELS[0], CHANNELS[0]),
            conv_bn_relu(CHANNELS[0], CHANNELS[1], stride=2),
        )
        self.levels = nn.ModuleList(
            [
                Tree(CHANNELS[1], CHANNELS[2], stride=2),
                Level(CHANNELS[2], CHANNELS[3], trees=2),
                Level(CHANNELS[3], CHANNELS[4], trees=2),
                Level(CHANNELS[4], CHANNELS[5], trees=1),
            ]
        )
        # From coarse to fine; each leaves the maps that it merged at its own stride and width.
        self.up = nn.ModuleList(
            [
                Aggregate(256, (512,), (2,)),
                Aggregate(128, (256, 256), (2, 2)),
                Aggregate(64, (128, 128, 128), (2, 2, 2)),
            ]
        )
        self.fuse = Aggregate(64, (128, 256), (2, 4))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, 64, H / 4, W / 4)]."""
        x = self.part(self.stem, images)
        maps = []
        for level in self.levels:
            x = self.part(level, x)
            maps.append(x)
        merged = []  # from coarse to fine: strides 16, 8, 4
        for index, aggregate in enumerate(self.up):
            start = len(maps) - 2 - index
            maps[start:] = self.part(aggregate, maps[start:])
            merged.append(maps[-1])
        return self.part(self.fuse, merged[::-1])[-1:]

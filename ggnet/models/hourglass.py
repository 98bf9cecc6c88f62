"""Hourglass-104 (CornerNet, ECCV 2018), the backbone of the paper's best results."""

import torch.nn.functional as F
from torch import Tensor, nn

from ggnet.models.backbone import Backbone
from ggnet.models.blocks import Residual, conv_bn, conv_bn_relu

# Channels at strides 4, 8, ..., 128, and residual blocks at each.
CHANNELS = (256, 256, 384, 384, 384, 512)
BLOCKS = (2, 2, 2, 2, 2, 4)


class Hourglass(nn.Module):
    """One hourglass: down level by level, up again, each level added to its own skip."""

    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        outer, inner, count = channels[0], channels[1], blocks[0]
        self.skip = nn.Sequential(*(Residual(outer, outer) for _ in range(count)))
        self.down = nn.Sequential(
            Residual(outer, inner, stride=2), *(Residual(inner, inner) for _ in range(count - 1))
        )
        self.inner = (
            Hourglass(channels[1:], blocks[1:])
            if len(channels) > 2
            else nn.Sequential(*(Residual(inner, inner) for _ in range(blocks[1])))
        )
        self.up = nn.Sequential(
            *(Residual(inner, inner) for _ in range(count - 1)),
            Residual(inner, outer),
            nn.Upsample(scale_factor=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.skip(x) + self.up(self.inner(self.down(x)))


class HourglassNet(Backbone):
    """Stacked hourglasses; every stack yields a feature map at stride 4."""

    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], stacks: int) -> None:
        super().__init__()
        width = channels[0]
        self.stacks = stacks
        self.out_channels = self.head_channels = width
        self.size_multiple = _coarsest(channels)
        self.stem = nn.Sequential(
            conv_bn_relu(3, width // 2, kernel=7, stride=2), Residual(width // 2, width, stride=2)
        )
        self.hourglasses = nn.ModuleList(Hourglass(channels, blocks) for _ in range(stacks))
        self.features = nn.ModuleList(conv_bn_relu(width, width) for _ in range(stacks))
        # What carries a stack's input and its feature map on to the next stack.
        between = range(stacks - 1)
        self.carry_input = nn.ModuleList(nn.Sequential(*conv_bn(width, width, 1)) for _ in between)
        self.carry_feature = nn.ModuleList(
            nn.Sequential(*conv_bn(width, width, 1)) for _ in between
        )
        self.carry = nn.ModuleList(Residual(width, width) for _ in between)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> for every stack (B, out_channels, H / 4, W / 4)."""
        first, second = self.stem
        x = second(self.part(first, images))
        outputs = []
        for stack, hourglass in enumerate(self.hourglasses):
            feature = self.part(self.features[stack], hourglass(x))
            outputs.append(feature)
            if stack < self.stacks - 1:
                x = F.relu(self.carry_input[stack](x) + self.carry_feature[stack](feature))
                x = self.carry[stack](x)
        return outputs


def _coarsest(channels: tuple[int, ...]) -> int:
    """The stride at the bottom of an hourglass."""
    return Backbone.stride * 2 ** (len(channels) - 1)


class Hourglass104(HourglassNet):
    """Two stacks, 187.7 M parameters."""

    stacks = 2
    size_multiple = _coarsest(CHANNELS)

    def __init__(self) -> None:
        super().__init__(CHANNELS, BLOCKS, self.stacks)

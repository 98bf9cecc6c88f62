"""Parts of published networks around torchvision's deformable convolution, with random weights.

Written anew after the papers and their authors' code, each as such code calls torchvision:

- BiRefNet (Zheng et al., CAAI AIR 2024): the decoder's blocks, kernels of 1, 3 and 7
- BasicVSR++ (Chan et al., CVPR 2022): second-order alignment of two frames, 16 offset groups
- ResNet-50 and ResNeXt-50 32x4d with DCNv2 (Zhu et al., CVPR 2019): a stage, stride 2
- DLA-34 (Yu et al., CVPR 2018) with CenterNet's deformable upsampling: ours, on torchvision
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, deform_conv2d

from ggnet.models.blocks import DeformNode
from ggnet.models.dla import DLA34

SPREAD = 0.5  # of the offsets in cells; more, and rounding grows from layer to layer


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


# -- BiRefNet -------------------------------------------------------------------------------------


class Modulated(nn.Module):
    """Offsets and modulation (0 to 2) from a convolution each; BatchNorm and ReLU after it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.padding = kernel // 2
        same = {"kernel_size": kernel, "padding": self.padding}
        self.offset = nn.Conv2d(in_channels, 2 * kernel**2, **same)
        self.modulator = nn.Conv2d(in_channels, kernel**2, **same)
        self.regular = nn.Conv2d(in_channels, out_channels, **same, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        mask = 2 * self.modulator(x).sigmoid()
        weight = self.regular.weight
        x = deform_conv2d(x, self.offset(x), weight, padding=self.padding, mask=mask)
        return F.relu(self.norm(x), inplace=True)


class DecoderBlock(nn.Module):
    """A deformable pyramid of 1x1, 1x1, 3x3 and 7x7 and the mean, between two convolutions."""

    def __init__(self, in_channels: int, out_channels: int, inner: int = 64, wide: int = 256):
        super().__init__()
        self.enter = conv_bn_relu(in_channels, inner, 3)
        self.pyramid = nn.ModuleList(Modulated(inner, wide, kernel) for kernel in (1, 1, 3, 7))
        # Its BatchNorm is left out: one cell of one image has no statistics.
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, wide, 1), nn.ReLU())
        self.join = conv_bn_relu(5 * wide, inner)
        self.leave = nn.Sequential(
            nn.Conv2d(inner, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        branches = [
            *(branch(x) for branch in self.pyramid),
            self.mean(x).expand(-1, -1, *x.shape[2:]),
        ]
        return self.leave(self.join(torch.cat(branches, dim=1)))


class Decoder(nn.Module):
    """Blocks from coarse to fine, each upsampled and added to the next level, and a last 1x1."""

    def __init__(self, channels: tuple[int, ...], inner: int = 64, wide: int = 256) -> None:
        super().__init__()
        finer = (*channels[1:], channels[-1] // 2)
        self.blocks = nn.ModuleList(
            DecoderBlock(*pair, inner, wide) for pair in zip(channels, finer, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, c, 1) for c in channels[1:])
        self.last = nn.Conv2d(finer[-1], 1, 1)

    def forward(self, *levels: Tensor) -> Tensor:
        """(B, C_i, H / 32, W / 32) and so on to stride 4 -> (B, 1, H, W)."""
        x = self.blocks[0](levels[0])
        for block, lateral, level in zip(self.blocks[1:], self.lateral, levels[1:], strict=True):
            x = F.interpolate(x, size=level.shape[2:], mode="bilinear", align_corners=True)
            x = block(x + lateral(level))
        return F.interpolate(self.last(x), scale_factor=4, mode="bilinear", align_corners=True)


# -- BasicVSR++ -----------------------------------------------------------------------------------


class SecondOrderAlignment(nn.Module):
    """Aligns the features of two frames along their optical flows, refined by learned offsets."""

    reach = 10.0  # of the refinement, in cells

    def __init__(self, channels: int = 64, offset_groups: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in (3 * channels + 4, channels, channels):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.LeakyReLU(0.1, inplace=True)]
        self.predict = nn.Sequential(*layers, nn.Conv2d(channels, 27 * offset_groups, 3, padding=1))
        self.align = DeformConv2d(2 * channels, channels, 3, padding=1)

    def forward(self, frames: Tensor, condition: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """(B, 2C, H, W), (B, 3C, H, W), two flows (B, 2, H, W) in x, y -> (B, C, H, W)."""
        predicted = self.predict(torch.cat([condition, first, second], dim=1))
        *offsets, logits = predicted.chunk(3, dim=1)
        flows = (first, second)  # of the first half of the offset groups, of the second
        offset = [
            self.reach * part.tanh() + flow.flip(1).repeat(1, part.shape[1] // 2, 1, 1)
            for part, flow in zip(offsets, flows, strict=True)
        ]
        return self.align(frames, torch.cat(offset, dim=1), logits.sigmoid())


# -- ResNet, ResNeXt, DLA -------------------------------------------------------------------------


class SelfModulated(nn.Module):
    """DCNv2: one convolution predicts offsets and mask. Parameters named as mmcv's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.steps = {"stride": stride, "padding": 1}
        conv = nn.Conv2d(in_channels, out_channels, 3, groups=groups, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.conv_offset = nn.Conv2d(in_channels, 27, 3, **self.steps)

    def forward(self, x: Tensor) -> Tensor:
        offset, logits = self.conv_offset(x).split([18, 9], dim=1)
        mask = logits.sigmoid()
        return deform_conv2d(x, offset, self.weight, self.bias, **self.steps, mask=mask)


class Bottleneck(nn.Module):
    def __init__(
        self, in_channels: int, width: int, out_channels: int, stride: int, groups: int
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn_relu(in_channels, width),
            SelfModulated(width, width, stride, groups),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x), inplace=True)


def stage(channels: int, width: int, blocks: int, groups: int = 1) -> nn.Sequential:
    """From (B, channels, H, W) to (B, 2 channels, H / 2, W / 2)."""
    first = Bottleneck(channels, width, 2 * channels, 2, groups)
    rest = (Bottleneck(2 * channels, width, 2 * channels, 1, groups) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


class DLA(nn.Module):
    """`ggnet.models.DLA34` with torchvision's operator in its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = DLA34()
        for node in self.network.modules():
            if isinstance(node, DeformNode):
                layer = node[0]
                node[0] = SelfModulated(layer.in_channels, layer.out_channels, bias=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[-1]


# -- what is measured and tested ------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """`make` and the shapes of its inputs, as used and small; what `text` says of the former."""

    text: str
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    make_small: Callable[[], nn.Module]
    small: tuple[tuple[int, ...], ...]

    def prepare(
        self, *, small: bool = False, batch: int = 1
    ) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """A network in training mode and inputs, from torch's seed.

        A fresh network predicts regular grids, or noise: a pass over the inputs scales each
        prediction of offsets to a standard deviation of `SPREAD`, in a network whose BatchNorms
        have statistics that fit.
        """
        network = (self.make_small if small else self.make)().train()
        shapes = self.small if small else self.shapes
        inputs = tuple(torch.randn(batch, *shape) for shape in shapes)

        def spread(conv: nn.Conv2d, _, output: Tensor) -> Tensor:
            scale = SPREAD / output.std()
            conv.weight.mul_(scale)
            conv.bias.mul_(scale)
            return output * scale

        handles = []
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
            conv = getattr(module, "offset", None) or getattr(module, "conv_offset", None)
            if conv is not None:
                handles.append(conv.register_forward_hook(spread))
        with torch.no_grad():
            network(*inputs)
        for handle in handles:
            handle.remove()
        return network, inputs


PYRAMID = (3072, 1536, 768, 384)  # Swin-L's, of two scales of the image
NETWORKS = {
    "birefnet-block": Network(
        "BiRefNet's last decoder block of a 1024 x 1024 image",
        lambda: DecoderBlock(384, 192),
        ((384, 256, 256),),
        lambda: DecoderBlock(6, 5, 8, 12),
        ((6, 9, 12),),
    ),
    "birefnet": Network(
        "BiRefNet's decoder, 1024 x 1024",
        lambda: Decoder(PYRAMID),
        tuple((c, 32 << i, 32 << i) for i, c in enumerate(PYRAMID)),
        lambda: Decoder((12, 10, 8, 6), 8, 12),
        tuple((c, 2 << i, 3 << i) for i, c in enumerate((12, 10, 8, 6))),
    ),
    "basicvsr": Network(
        "BasicVSR++'s alignment of two frames, 180 x 320",
        SecondOrderAlignment,
        ((128, 180, 320), (192, 180, 320), (2, 180, 320), (2, 180, 320)),
        lambda: SecondOrderAlignment(8, 8),
        ((16, 9, 13), (24, 9, 13), (2, 9, 13), (2, 9, 13)),
    ),
    "resnet50": Network(
        "ResNet-50's stage of stride 16 of an 800 x 800 image, DCNv2",
        lambda: stage(512, 256, 6),
        ((512, 100, 100),),
        lambda: stage(16, 8, 2),
        ((16, 11, 14),),
    ),
    "resnext50": Network(
        "ResNeXt-50 32x4d's, DCNv2 of 32 groups",
        lambda: stage(512, 512, 6, groups=32),
        ((512, 100, 100),),
        lambda: stage(32, 64, 2, groups=32),
        ((32, 11, 14),),
    ),
    "dla34": Network(
        "DLA-34, 512 x 512",
        DLA,
        ((3, 512, 512),),
        DLA,
        ((3, 64, 64),),
    ),
}

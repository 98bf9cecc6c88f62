"""ResNet (He et al., CVPR 2016) with CenterNet's deformable upsampling.

The residual layers are torchvision's, a bottleneck's stride on its 3x3 convolution; the three
upsampling stages are those of CenterNet and PPDM (resnet_dcn.py).
"""

from typing import ClassVar

from torch import Tensor, nn

from ggnet.models.backbone import Backbone
from ggnet.models.blocks import Bottleneck, DeformNode, Residual, conv_bn_relu

CHANNELS = (64, 128, 256, 512)  # of the blocks at strides 4, 8, 16, 32
UPSAMPLED = (256, 128, 64)  # at strides 16, 8, 4


class ResDCN(Backbone):
    """One feature map at stride 4 with 64 channels; its subclasses say how deep it is."""

    size_multiple = 32
    out_channels = head_channels = UPSAMPLED[-1]
    block: ClassVar[type[Residual]]
    blocks: ClassVar[tuple[int, int, int, int]]  # at strides 4, 8, 16, 32

    def __init__(self) -> None:
        super().__init__()
        width = CHANNELS[0]
        self.stem = nn.Sequential(
            conv_bn_relu(3, width, kernel=7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.layers = nn.ModuleList()
        for level, (channels, count) in enumerate(zip(CHANNELS, self.blocks, strict=True)):
            layer = [self.block(width, channels, stride=2 if level else 1)]
            width = self.block.expansion * channels
            layer += [self.block(width, channels) for _ in range(count - 1)]
            self.layers.append(nn.Sequential(*layer))
        self.upsample = nn.Sequential()
        for channels in UPSAMPLED:
            self.upsample.extend([*DeformNode(width, channels), *_deconv_bn_relu(channels)])
            width = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, 64, H / 4, W / 4)]."""
        x = self.part(self.stem, images)
        for layer in self.layers:
            x = layer(x)
        return [self.part(self.upsample, x)]


def _deconv_bn_relu(channels: int) -> list[nn.Module]:
    """Twice the size."""
    return [
        nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]


class ResDCN18(ResDCN):
    """On ResNet-18: PPDM's fastest."""

    block, blocks = Residual, (2, 2, 2, 2)


class ResDCN34(ResDCN):
    """On ResNet-34."""

    block, blocks = Residual, (3, 4, 6, 3)


class ResDCN50(ResDCN):
    """On ResNet-50."""

    block, blocks = Bottleneck, (3, 4, 6, 3)


class ResDCN101(ResDCN):
    """On ResNet-101."""

    block, blocks = Bottleneck, (3, 4, 23, 3)


class ResDCN152(ResDCN):
    """On ResNet-152."""

    block, blocks = Bottleneck, (3, 8, 36, 3)

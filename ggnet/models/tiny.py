"""A small backbone for CPUs and quick experiments."""

from typing import Self

from torch import Tensor, nn

from ggnet.config import ModelConfig
from ggnet.models.backbone import Backbone
from ggnet.models.blocks import Residual, conv_bn_relu


class Tiny(Backbone):
    """Residual blocks at strides 4 and 8, merged at stride 4.

    A cell sees 65 x 65 pixels: about a figure of the bundled scenes, but not a whole pair, so that
    the verbs' cues, which lie away from the midpoint, have to be looked for.
    """

    size_multiple = 8

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.out_channels = self.head_channels = width
        # With fewer than 16 input channels, the gradient of a strided 1x1 convolution in
        # channels_last writes beyond oneDNN's workspace (uxlfoundation/oneDNN, issue 6035).
        stem = max(width // 2, 16)
        self.fine = nn.Sequential(
            conv_bn_relu(3, stem, kernel=5, stride=2),
            Residual(stem, width, stride=2),
            Residual(width, width),
        )
        self.coarse = nn.Sequential(Residual(width, width, stride=2), nn.Upsample(scale_factor=2))
        self.merge = conv_bn_relu(width, width)

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """As wide as `config.width`."""
        return cls(config.width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, width, H / 4, W / 4)]."""
        fine = self.fine(images)
        return [self.merge(fine + self.coarse(fine))]

"""What a backbone declares."""

from typing import ClassVar, Self

from torch import Tensor

from ggnet.config import ModelConfig
from ggnet.models.checkpointing import Recomputing


class Backbone(Recomputing):
    """Maps images to feature maps; the base of everything in `ggnet.models.BACKBONES`.

    The network, its configuration and the data read what follows, and nothing else about it.
    """

    stride: ClassVar[int] = 4  # pixels of a cell's side
    size_multiple: int  # the sides of images are multiples of it
    stacks: int = 1  # feature maps, each with heads of its own in training
    out_channels: int  # of every feature map
    head_channels: int = 256  # hidden channels of every head

    @classmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The backbone that a configuration describes."""
        return cls()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W), normalized RGB -> `stacks` maps (B, out_channels, H / s, W / s)."""
        raise NotImplementedError

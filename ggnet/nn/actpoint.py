"""The aggregation of a gaze step, as a module that owns its weights."""

import math

import torch
from torch import Tensor, nn

from ggnet import ops
from ggnet.nn.deform import zero_conv


class ActPointAggregate(nn.Module):
    """A gaze step's aggregation: gather the ActPoints' features, weigh and convolve them.

    The points come from outside, because each gaze step predicts them from another feature map.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 5, *, relu: bool = False
    ) -> None:
        super().__init__()
        self.relu = relu
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        bound = 1 / math.sqrt(in_channels * kernel_size**2)
        nn.init.uniform_(self.weight, -bound, bound)
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(
        self, features: Tensor, points: Tensor, base_offset: Tensor | None = None
    ) -> Tensor:
        """Aggregate.

        Args:
            features: (B, C, H, W).
            points: (B, 3K, H, W), K = kernel_size squared: (dy, dx) of every point, then the
                logits of their weights.
            base_offset: (B, 2K, H, W), the previous step's offsets, which `points` refines.

        Returns:
            (B, O, H, W).
        """
        return ops.actpoint_aggregate(
            features, points, self.weight, self.bias, base_offset, relu=self.relu
        )


def points_conv(in_channels: int, kernel_size: int) -> nn.Conv2d:
    """The convolution that predicts offsets and weight logits; zero at first: a regular grid."""
    return zero_conv(in_channels, 3 * kernel_size**2, kernel_size, padding=kernel_size // 2)

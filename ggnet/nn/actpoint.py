"""The operators with learned points, as modules that own their weights."""

import math

import torch
from torch import Tensor, nn

from ggnet import ops


class ActPointAggregate(nn.Module):
    """A gaze step's aggregation: gather the ActPoints' features, weigh and convolve them.

    The points come from outside, because each gaze step predicts them from another feature map.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 5, *, relu: bool = False
    ) -> None:
        super().__init__()
        self.relu = relu
        self.weight, self.bias = _kernel(in_channels, out_channels, kernel_size)

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


class DeformConv2d(nn.Module):
    """Modulated deformable convolution that predicts its own offsets and mask (DCNv2).

    It starts as half of a regular convolution: offsets 0, mask 0.5.

    Args:
        kernel_size, stride, padding, dilation: a number for both dimensions, or (height, width).
        bias: whether the output has one; the offsets always do.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        self.weight, own_bias = _kernel(in_channels, out_channels, kernel_size)
        self.register_parameter("bias", own_bias if bias else None)
        self.points = points_conv(in_channels, kernel_size, **self.geometry)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, Ho, Wo)."""
        taps = self.weight[0, 0].numel()
        offset, logits = self.points(input).split([2 * taps, taps], dim=1)
        return ops.deform_conv2d(
            input, offset, self.weight, self.bias, **self.geometry, mask=logits.sigmoid()
        )


def points_conv(
    in_channels: int, kernel_size: int | tuple[int, int], **geometry: int | tuple[int, int]
) -> nn.Conv2d:
    """The convolution that predicts offsets and weight logits; zero at first: a regular grid.

    Without `geometry` it keeps the map's size.
    """
    height, width = _sides(kernel_size)
    geometry = geometry or {"padding": (height // 2, width // 2)}
    conv = nn.Conv2d(in_channels, 3 * height * width, (height, width), **geometry)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def _kernel(
    in_channels: int, out_channels: int, size: int | tuple[int, int]
) -> tuple[nn.Parameter, nn.Parameter]:
    height, width = _sides(size)
    weight = nn.Parameter(torch.empty(out_channels, in_channels, height, width))
    bound = 1 / math.sqrt(in_channels * height * width)
    nn.init.uniform_(weight, -bound, bound)
    return weight, nn.Parameter(torch.zeros(out_channels))


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = size if isinstance(size, tuple | list) else (size, size)
    return int(height), int(width)

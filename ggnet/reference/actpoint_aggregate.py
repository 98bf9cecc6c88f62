"""ActPoint aggregation: the gaze step of GGNet (CVPR 2021)."""

import torch
from torch import Tensor

from ggnet.reference.deform_conv2d import deform_conv2d


def actpoint_aggregate(
    features: Tensor,
    points: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    base_offset: Tensor | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """Gather the features of K ActPoints around every cell, weigh and convolve them.

    Args:
        features: (B, C, H, W).
        points: (B, 3K, H, W), the raw output of the point-predicting convolution: channels
            2k, 2k+1 are (dy, dx) of point k relative to the regular k x k grid, in cells;
            channel 2K + k is the logit of its weight.
        weight: (O, C, k, k), K = k * k.
        bias: (O,).
        base_offset: (B, 2K, H, W), offsets of the previous gaze step, added to those of `points`.
        relu: rectify the output.

    Returns:
        (B, O, H, W).
    """
    size = weight.shape[-1]
    offset, logits = points.split([2 * size * size, size * size], dim=1)
    if base_offset is not None:
        offset = offset + base_offset
    output = deform_conv2d(
        features, offset, weight, bias, padding=size // 2, mask=torch.sigmoid(logits)
    )
    return output.relu() if relu else output

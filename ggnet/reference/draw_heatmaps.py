"""Gaussian targets with hard negatives, order-independent."""

import torch
from torch import Tensor


def draw_heatmaps(
    centers: Tensor,
    radii: Tensor,
    signs: Tensor,
    shape: tuple[int, int, int, int],
    *,
    positive_factor: float = 6.0,
    negative_factor: float = 6.0,
) -> Tensor:
    """Draw one Gaussian a point: positives as they are, hard negatives negated.

    A point draws exp(-(dy^2 + dx^2) / (2 sigma^2)), sigma = (2r + 1) / factor, in the
    (2r + 1) x (2r + 1) window around its center; where that is below the smallest normal float32,
    1.2e-38, this number. Positives merge by maximum; negatives merge by minimum and show only
    outside of all positives' windows, so the order of the points does not matter.

    Args:
        centers: (N, 4) int32, [batch, channel, y, x]. Points with a center outside of the map
            are left out.
        radii: (N,) int32, in cells. Points with a negative radius are left out.
        signs: (N,) int32, +1 or -1.
        shape: (B, V, H, W).

    Returns:
        float32 (B, V, H, W). A positive's center is exactly 1, a surviving negative's exactly -1.
    """
    batch, channels, height, width = shape
    positives = torch.zeros(shape, dtype=torch.float64, device=centers.device)
    negatives = torch.zeros_like(positives)
    for center, radius, sign in zip(centers.tolist(), radii.tolist(), signs.tolist(), strict=True):
        inside = all(0 <= at < size for at, size in zip(center, shape, strict=True))
        if radius < 0 or not inside:
            continue
        b, channel, y, x = center
        top, bottom = max(y - radius, 0), min(y + radius + 1, height)
        left, right = max(x - radius, 0), min(x + radius + 1, width)
        dy = torch.arange(top, bottom, dtype=torch.float64, device=centers.device) - y
        dx = torch.arange(left, right, dtype=torch.float64, device=centers.device) - x
        sigma = (2 * radius + 1) / (positive_factor if sign > 0 else negative_factor)
        gaussian = torch.exp(-(dy[:, None] ** 2 + dx**2) / (2 * sigma**2))
        gaussian.clamp_(min=torch.finfo(torch.float32).tiny)
        canvas = positives if sign > 0 else negatives
        window = canvas[b, channel, top:bottom, left:right]
        torch.maximum(window, gaussian, out=window)
    return torch.where(positives > 0, positives, 0.0 - negatives).float()

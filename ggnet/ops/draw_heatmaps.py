"""Gaussian targets with hard negatives, drawn on the device, whatever the points' order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ggnet.ops import _check, _layout
from ggnet.ops._backend import resolve_operator


def draw_heatmaps(
    centers: Tensor,
    radii: Tensor,
    signs: Tensor,
    shape: Sequence[int],
    *,
    positive_factor: float = 6.0,
    negative_factor: float = 6.0,
) -> Tensor:
    """Draw one Gaussian a point: positives as they are, hard negatives negated.

    A point draws exp(-(dy^2 + dx^2) / (2 sigma^2)), sigma = (2r + 1) / factor, in the
    (2r + 1) x (2r + 1) window around its center; where that is below the smallest normal float32,
    1.2e-38, this number. Positives merge by maximum; negatives merge by minimum and show only
    outside of all positives' windows, so the order of the points does not matter.
    Source: Section 3.4 of GGNet (CVPR 2021); the Gaussian is CenterNet's.

    Not differentiable.

    Args:
        centers: (N, 4) int32, [batch, channel, y, x]. Points with a center outside of the map
            are left out.
        radii: (N,) int32, in cells. Points with a negative radius are left out.
        signs: (N,) int32, +1 or -1.
        shape: (B, V, H, W).
        positive_factor, negative_factor: windows are this many sigma wide; above 0.

    Returns:
        float32 (B, V, H, W). A positive's center is exactly 1, a surviving negative's exactly -1.

    Raises:
        ValueError: a shape, device or factor that does not fit, or 2**31 elements and more.
        TypeError: a dtype that does not fit.
        BackendError: no kernel for this device, or not in the chosen backend.
    """
    _check.tensor("centers", centers, 2)
    count = centers.shape[0]
    _check.shape("centers", centers, (count, 4), "(N, 4)")
    _check.shape("radii", radii, (count,), "(N,)")
    _check.shape("signs", signs, (count,), "(N,)")
    for name, value in (("centers", centers), ("radii", radii), ("signs", signs)):
        _check.dtype(name, value, torch.int32)
    _check.same_device("centers", centers, radii=radii, signs=signs)
    if len(shape) != 4:
        raise ValueError(f"shape is {tuple(shape)}; expected (B, V, H, W)")
    shape = [_check.integer(f"shape[{i}]", size, 0) for i, size in enumerate(shape)]
    _check.indexable("the output", shape)
    positive_factor = _factor("positive_factor", positive_factor)
    negative_factor = _factor("negative_factor", negative_factor)
    operator = resolve_operator("draw_heatmaps", centers)
    return operator(centers, radii, signs, shape, positive_factor, negative_factor)


def _factor(name: str, value: float) -> float:
    value = _check.number(name, value)
    if value <= 0:
        raise ValueError(f"{name} is {value}; expected a number above 0")
    return value


def _fake(centers, radii, signs, shape, positive_factor, negative_factor):
    return _layout.empty(shape, centers, dtype=torch.float32)


def register(namespace: str) -> None:
    """Register the fake kernel of `namespace`'s operator."""
    torch.library.register_fake(f"{namespace}::draw_heatmaps", _fake)


register("ggnet")

"""actpoint_aggregate in Triton: the deformable convolution on raw points."""

import torch
from ggnet.kernels import deform_backward, deform_forward
from ggnet.kernels.common import NAMESPACE, operator
from torch import Tensor

from ggnet.ops import _layout
from ggnet.ops._wanted import Wanted
from ggnet.ops.actpoint_aggregate import register


@operator("actpoint_aggregate")
def actpoint_aggregate(
    features: Tensor,
    points: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    base_offset: Tensor | None = None,
    *,
    relu: bool = False,
    tf32: bool = False,
) -> Tensor:
    side = weight.shape[2]
    return deform_forward.forward(
        features,
        points[:, : 2 * side * side],
        base_offset,
        points[:, 2 * side * side :],
        weight,
        bias,
        steps(side),
        sigmoid=True,
        relu=relu,
        tf32=tf32,
    )


@operator("actpoint_aggregate_backward")
def actpoint_aggregate_backward(
    grad_output: Tensor,
    features: Tensor,
    points: Tensor,
    weight: Tensor,
    base_offset: Tensor | None,
    output: Tensor | None,
    wanted: int,
    deterministic: bool,
    *,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    side = weight.shape[2]
    if output is not None:  # of the ReLU: where it is NaN, the gradient passes
        grad_output = torch.where(output <= 0, 0, grad_output)
    grad_features, grad_points, grad_weight, grad_bias = deform_backward.backward(
        grad_output,
        features,
        points[:, : 2 * side * side],
        base_offset,
        points[:, 2 * side * side :],
        weight,
        steps(side),
        sigmoid=True,
        wanted=tuple(bool(wanted & bit) for bit in list(Wanted)[:4]),
        deterministic=deterministic,
        tf32=tf32,
    )
    if wanted & Wanted.POINTS:
        grad_points = grad_points.contiguous(memory_format=_layout.memory_format(points))
    if wanted & Wanted.WEIGHT:
        grad_weight = grad_weight.contiguous(memory_format=_layout.memory_format(weight))
    return grad_features, grad_points, grad_weight, grad_bias


def steps(side: int) -> tuple[int, ...]:
    """Stride 1, the regular grid centered, no dilation."""
    return (1, 1, side // 2, side // 2, 1, 1)


register(NAMESPACE)

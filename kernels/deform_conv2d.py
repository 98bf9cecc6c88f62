"""deform_conv2d in Triton."""

from ggnet.kernels import deform_backward, deform_forward
from ggnet.kernels.common import NAMESPACE, operator
from torch import Tensor

from ggnet.ops import _layout
from ggnet.ops._wanted import Wanted
from ggnet.ops.deform_conv2d import register


@operator("deform_conv2d")
def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    mask: Tensor | None,
    *,
    tf32: bool = False,
) -> Tensor:
    return deform_forward.forward(
        input,
        offset,
        None,
        mask,
        weight,
        bias,
        (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        sigmoid=False,
        relu=False,
        tf32=tf32,
    )


@operator("deform_conv2d_backward")
def deform_conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    wanted: int,
    deterministic: bool,
    *,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    wants_offset, wants_mask = bool(wanted & Wanted.POINTS), bool(wanted & Wanted.MASK)
    grad_input, grad_points, grad_weight, grad_bias = deform_backward.backward(
        grad_output,
        input,
        offset,
        None,
        mask,
        weight,
        (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w),
        sigmoid=False,
        wanted=(
            bool(wanted & Wanted.FEATURES),
            wants_offset or wants_mask,
            bool(wanted & Wanted.WEIGHT),
            bool(wanted & Wanted.BIAS),
        ),
        deterministic=deterministic,
        tf32=tf32,
    )
    grad_offset, grad_of_mask = input.new_empty((0,)), input.new_empty((0,))
    split = offset.shape[1]
    if wants_offset:
        grad_offset = _layout.gradient(offset, True).copy_(grad_points[:, :split])
    if wants_mask:
        grad_of_mask = _layout.gradient(mask, True).copy_(grad_points[:, split:])
    if wanted & Wanted.WEIGHT:
        grad_weight = grad_weight.contiguous(memory_format=_layout.memory_format(weight))
    return grad_input, grad_offset, grad_weight, grad_bias, grad_of_mask


register(NAMESPACE)

"""Modulated deformable convolution (Zhu et al., Deformable ConvNets v2, CVPR 2019)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ggnet import reference
from ggnet.ops import _check, _composite, _layout
from ggnet.ops._autocast import register_autocast
from ggnet.ops._autograd import refuse_double_backward, register_autograd
from ggnet.ops._backend import resolve_operator, tf32_allowed
from ggnet.ops._wanted import Wanted, wanted_bits


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Every tap of the kernel reads the input at its regular position plus a learned offset.

    Signature, layout and semantics of torchvision.ops.deform_conv2d; the sampled columns are never
    materialized. Samples are bilinear and zero outside of the input. The shapes tell the numbers of
    groups: with a weight of C / groups channels, the n-th C / groups channels give the n-th
    O / groups outputs; with an offset of 2GK channels, the n-th C / G channels are read at the n-th
    K taps' offsets and masks.

    float32, bfloat16, float16, and float64 on the CPU; sums are at least float32. Differentiable in
    all five tensors; second derivatives, forward mode and torch.func run plain torch operations,
    which are slower and materialize the columns. Under autocast everything is cast to the region's
    dtype.

    Args:
        input: (B, C, H, W); the output has its memory format.
        offset: (B, 2GK, Ho, Wo) in cells, K = kh * kw, G a divisor of C; channels 2(gK + k) and
            2(gK + k) + 1 are (dy, dx) of offset group g's tap k, taps row by row.
        weight: (O, C / groups, kh, kw), O a multiple of groups.
        bias: (O,).
        stride, padding, dilation: an integer or (vertical, horizontal), in cells.
        mask: (B, GK, Ho, Wo), factor of each sample; None: 1.

    Returns:
        (B, O, Ho, Wo), Ho = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1.

    Raises:
        ValueError: a shape or device that does not fit, or 2**31 elements and more.
        TypeError: a dtype that does not fit.
        BackendError: no kernel for this device, or not in the chosen backend.
    """
    operator, steps = checked(
        "deform_conv2d", input, offset, weight, bias, stride, padding, dilation, mask
    )
    tensors = (input, offset, weight, bias, mask)
    if _composite.needed(*tensors):
        return _composite.run(_reference(steps), tensors)
    return operator(input, offset, weight, bias, *steps, mask, tf32=tf32_allowed(input))


def checked(
    name: str,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int],
    mask: Tensor | None,
) -> tuple[Callable, tuple[int, ...]]:
    """For arguments of `deform_conv2d`: the registered operator `name`, it or its backward, and
    stride, padding and dilation as that takes them. Raises as `deform_conv2d`."""
    _check.tensor("input", input, 4)
    _check.tensor("offset", offset, 4)
    _check.tensor("weight", weight, 4)
    stride = _check.pair("stride", stride, 1)
    padding = _check.pair("padding", padding, 0)
    dilation = _check.pair("dilation", dilation, 1)
    batch, channels, height, width = input.shape
    outputs, group_channels, kernel_h, kernel_w = weight.shape
    taps = kernel_h * kernel_w
    if channels == 0:
        raise ValueError("input has no channels")
    if taps == 0 or group_channels == 0:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; expected (O, C / groups, kh, kw), none empty"
        )
    if channels % group_channels != 0:
        raise ValueError(
            f"weight has {group_channels} input channels; expected the {channels} of input or, for "
            "groups, a divisor of it"
        )
    groups = channels // group_channels
    if outputs % groups != 0:
        raise ValueError(
            f"weight has {outputs} outputs; expected a multiple of {groups}, the groups that its "
            f"{group_channels} of {channels} input channels mean"
        )
    offset_groups = offset.shape[1] // (2 * taps)
    if offset.shape[1] % (2 * taps) != 0 or offset_groups == 0 or channels % offset_groups != 0:
        fitting = [str(2 * taps * g) for g in range(1, channels + 1) if channels % g == 0]
        raise ValueError(
            f"offset has {offset.shape[1]} channels; expected 2 G K, K = {taps} taps, for a number "
            f"of offset groups G that divides the {channels} channels of input: one of "
            f"{', '.join(fitting)}"
        )
    out_h = _output_size(height, kernel_h, stride[0], padding[0], dilation[0])
    out_w = _output_size(width, kernel_w, stride[1], padding[1], dilation[1])
    if out_h < 1 or out_w < 1:
        raise ValueError(
            f"input is {height} x {width} cells; expected at least as many as the dilated kernel, "
            f"{dilation[0] * (kernel_h - 1) + 1} x {dilation[1] * (kernel_w - 1) + 1}, less "
            f"twice the padding {padding}"
        )
    _check.shape("offset", offset, (batch, offset.shape[1], out_h, out_w), "(B, 2GK, Ho, Wo)")
    if bias is not None:
        _check.shape("bias", bias, (outputs,), "(O,)")
    if mask is not None:
        expected = (batch, offset_groups * taps, out_h, out_w)
        _check.shape("mask", mask, expected, "(B, GK, Ho, Wo), half of offset's channels,")
    _check.indexable("the output", (batch, outputs, out_h, out_w))
    _check.floating("input", input)
    _check.like("input", input, offset=offset, weight=weight, bias=bias, mask=mask)
    return resolve_operator("deform_conv2d", input, name), (*stride, *padding, *dilation)


def _reference(steps):
    def function(input, offset, weight, bias, mask):
        pairs = (tuple(steps[i : i + 2]) for i in (0, 2, 4))
        return reference.deform_conv2d(input, offset, weight, bias, *pairs, mask)

    return function


def _output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _fake(input, offset, weight, bias, *steps_and_mask, tf32=False):
    batch, outputs = input.shape[0], weight.shape[0]
    return _layout.empty((batch, outputs, *offset.shape[2:]), input, follow=True)


def _fake_backward(grad_output, input, offset, weight, mask, *steps_and_flags, tf32=False):
    *_, wanted, _deterministic = steps_and_flags
    return (
        _layout.gradient(input, wanted & Wanted.FEATURES),
        _layout.gradient(offset, wanted & Wanted.POINTS),
        _layout.gradient(weight, wanted & Wanted.WEIGHT),
        _layout.empty((weight.shape[0] if wanted & Wanted.BIAS else 0,), weight),
        _layout.gradient(mask, wanted & Wanted.MASK)
        if wanted & Wanted.MASK
        else _layout.empty((0,), input),
    )


def _setup_context(ctx, inputs, keyword_only_inputs, output) -> None:
    input, offset, weight, _, *steps, mask = inputs
    ctx.save_for_backward(input, offset, weight, mask)
    ctx.steps = steps
    ctx.tf32 = keyword_only_inputs["tf32"]


def _backward(operator, ctx, grad_output):
    wants = [ctx.needs_input_grad[i] for i in (0, 1, 2, 3, 10)]
    if torch.is_grad_enabled():  # create_graph
        input, offset, weight, mask = ctx.saved_tensors
        bias = weight.new_zeros(weight.shape[:1]).requires_grad_()
        grads = _composite.gradients(
            _reference(ctx.steps), (input, offset, weight, bias, mask), wants, grad_output
        )
    else:
        grads = operator(
            grad_output,
            *ctx.saved_tensors,
            *ctx.steps,
            wanted_bits(wants),
            torch.are_deterministic_algorithms_enabled(),
            tf32=ctx.tf32,
        )
    *first, last = (grad if want else None for grad, want in zip(grads, wants, strict=True))
    return (*first, *[None] * 6, last)


def register(namespace: str) -> None:
    """Register the fake kernels, autograd and autocast of `namespace`'s operator."""
    torch.library.register_fake(f"{namespace}::deform_conv2d", _fake)
    torch.library.register_fake(f"{namespace}::deform_conv2d_backward", _fake_backward)
    backward = partial(_backward, getattr(torch.ops, namespace).deform_conv2d_backward)
    register_autograd(namespace, "deform_conv2d", backward, _setup_context)
    refuse_double_backward(namespace, "deform_conv2d", "deform_conv2d_backward")
    register_autocast(namespace, "deform_conv2d")


register("ggnet")

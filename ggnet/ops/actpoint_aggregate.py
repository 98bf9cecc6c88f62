"""ActPoint aggregation: the gaze step of GGNet (CVPR 2021) in one pass."""

from functools import partial

import torch
from torch import Tensor

from ggnet import reference
from ggnet.ops import _check, _composite, _layout
from ggnet.ops._autocast import register_autocast
from ggnet.ops._autograd import refuse_double_backward, register_autograd
from ggnet.ops._backend import resolve_operator, tf32_allowed
from ggnet.ops._wanted import Wanted, wanted_bits


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

    The sigmoid of the weights, the sum with the previous step's offsets, bilinear sampling, the
    convolution, bias and ReLU run in one pass; the sampled columns are never materialized. Stride
    is 1 and the regular grid is centered (padding k // 2). Samples outside of the map are zero.
    Source: Section 3.2 of the paper; the layer is a modulated deformable convolution (Zhu et al.,
    CVPR 2019).

    float32, bfloat16, float16, and float64 on the CPU; sums are at least float32. Differentiable in
    all five tensors; second derivatives, forward mode and torch.func run plain torch operations,
    which are slower and materialize the columns.
    Under autocast everything is cast to the region's dtype. On a GPU, float32 is multiplied in TF32
    where `torch.backends.cuda.matmul.allow_tf32` is set; elsewhere tensor cores reach float32's
    accuracy by three TF32 products (magnitudes below 1e-34 lose relative accuracy).

    Args:
        features: (B, C, H, W); the output has their memory format.
        points: (B, 3K, H, W), the raw output of the point-predicting convolution: channels
            2k, 2k+1 are (dy, dx) of point k relative to the regular k x k grid, in cells;
            channel 2K + k is the logit of its weight.
        weight: (O, C, k, k), K = k * k, k one of 3, 5, 7.
        bias: (O,).
        base_offset: (B, 2K, H, W), offsets of the previous gaze step in cells, added to those of
            `points`.
        relu: rectify the output.

    Returns:
        (B, O, H, W).

    Raises:
        ValueError: a shape or device that does not fit, or 2**31 elements and more.
        TypeError: a dtype that does not fit.
        BackendError: no kernel for this device, or not in the chosen backend.
    """
    _check.tensor("features", features, 4)
    _check.tensor("weight", weight, 4)
    batch, channels, height, width = features.shape
    outputs, _, side, _ = weight.shape
    if side not in (3, 5, 7):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; expected (O, C, k, k) with k 3, 5 or 7"
        )
    taps = side * side
    _check.shape("weight", weight, (outputs, channels, side, side), "(O, C, k, k)")
    _check.shape("points", points, (batch, 3 * taps, height, width), "(B, 3K, H, W)")
    if bias is not None:
        _check.shape("bias", bias, (outputs,), "(O,)")
    if base_offset is not None:
        _check.shape("base_offset", base_offset, (batch, 2 * taps, height, width), "(B, 2K, H, W)")
    _check.indexable("the output", (batch, outputs, height, width))
    _check.floating("features", features)
    _check.like(
        "features", features, points=points, weight=weight, bias=bias, base_offset=base_offset
    )
    operator = resolve_operator("actpoint_aggregate", features)
    tensors = (features, points, weight, bias, base_offset)
    if _composite.needed(*tensors):
        return _composite.run(partial(reference.actpoint_aggregate, relu=relu), tensors)
    return operator(
        features, points, weight, bias, base_offset, relu=relu, tf32=tf32_allowed(features)
    )


def _fake(features, points, weight, bias=None, base_offset=None, *, relu=False, tf32=False):
    batch, _, height, width = features.shape
    return _layout.empty((batch, weight.shape[0], height, width), features, follow=True)


def _fake_backward(
    grad_output,
    features,
    points,
    weight,
    base_offset,
    output,
    wanted,
    deterministic,
    *,
    tf32=False,
):
    return (
        _layout.gradient(features, wanted & Wanted.FEATURES),
        _layout.gradient(points, wanted & Wanted.POINTS),
        _layout.gradient(weight, wanted & Wanted.WEIGHT),
        _layout.empty((weight.shape[0] if wanted & Wanted.BIAS else 0,), weight),
    )


def _setup_context(ctx, inputs, keyword_only_inputs, output) -> None:
    features, points, weight, _, base_offset = inputs
    rectified = output if keyword_only_inputs["relu"] else None
    ctx.save_for_backward(features, points, weight, base_offset, rectified)
    ctx.tf32 = keyword_only_inputs["tf32"]


def _backward(operator, ctx, grad_output):
    features, points, weight, base_offset, output = ctx.saved_tensors
    # The dispatcher drops trailing arguments that have their default value.
    wants = (*ctx.needs_input_grad, False, False)[:5]
    wants_features, wants_points, wants_weight, wants_bias, wants_base = wants
    if torch.is_grad_enabled():  # create_graph
        if output is not None:  # NaN passes, as it does through ReLU
            grad_output = grad_output.masked_fill(output.detach() <= 0, 0)
        bias = weight.new_zeros(weight.shape[:1]).requires_grad_()
        tensors = (features, points, weight, bias, base_offset)
        return tuple(
            _composite.gradients(reference.actpoint_aggregate, tensors, wants, grad_output)
        )
    bits = wanted_bits((wants_features, wants_points or wants_base, wants_weight, wants_bias))
    grad_features, grad_points, grad_weight, grad_bias = operator(
        grad_output,
        features,
        points,
        weight,
        base_offset,
        output,
        bits,
        torch.are_deterministic_algorithms_enabled(),
        tf32=ctx.tf32,
    )
    grad_base = None
    if wants_base:
        grad_base = grad_points[:, : base_offset.shape[1]]
        if wants_points:  # autograd may add to either in place
            grad_base = grad_base.clone()
    return (
        grad_features if wants_features else None,
        grad_points if wants_points else None,
        grad_weight if wants_weight else None,
        grad_bias if wants_bias else None,
        grad_base,
    )


def register(namespace: str) -> None:
    """Register the fake kernels, autograd and autocast of `namespace`'s operator."""
    torch.library.register_fake(f"{namespace}::actpoint_aggregate", _fake)
    torch.library.register_fake(f"{namespace}::actpoint_aggregate_backward", _fake_backward)
    backward = partial(_backward, getattr(torch.ops, namespace).actpoint_aggregate_backward)
    register_autograd(namespace, "actpoint_aggregate", backward, _setup_context)
    refuse_double_backward(namespace, "actpoint_aggregate", "actpoint_aggregate_backward")
    register_autocast(namespace, "actpoint_aggregate")


register("ggnet")

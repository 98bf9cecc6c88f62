"""Calls every operator and its backward with each operand at the edge of forbidden memory.

Run by test_memory.py in a process of its own; prints what it is about to call.
"""

import torch
from guarded import guarded
from op_testing import randn
from test_draw_heatmaps import SHAPE, random_points
from test_match_points import random_case

from ggnet import ops


def layouts(tensor):
    yield tensor.contiguous()
    if tensor.dim() == 4:
        yield tensor.contiguous(memory_format=torch.channels_last)


def differentiable(name, function, tensors, dtype, output_shape):
    for layout in range(2):
        operands = [list(layouts(t.to(dtype)))[layout if t.dim() == 4 else 0] for t in tensors]
        grad = list(layouts(randn(*output_shape, seed=9).to(dtype)))[layout if output_shape else 0]
        results = []
        for at_end in (None, True, False):
            print(name, dtype, layout, at_end, flush=True)
            leaves = [t.clone() if at_end is None else guarded(t, at_end) for t in operands]
            leaves = [t.requires_grad_() for t in leaves]
            out = function(*leaves)
            out.backward(grad if at_end is None else guarded(grad, at_end))
            results.append([out.detach(), *(t.grad for t in leaves)])
        check(results)


def plain(name, function, tensors):
    results = []
    for at_end in (None, True, False):
        print(name, at_end, flush=True)
        results.append(function(*(t if at_end is None else guarded(t, at_end) for t in tensors)))
    check(results)


def check(results):
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


def deformable(dtype):
    for channels, outputs, height, width, k in (
        (5, 3, 6, 7, 3),
        (16, 8, 9, 18, 5),
        (33, 17, 4, 3, 3),
    ):
        taps = k * k
        tensors = [
            randn(2, channels, height, width, seed=1),
            randn(2, 3 * taps, height, width, seed=2, scale=4.0),
            randn(outputs, channels, k, k, seed=3),
            randn(outputs, seed=4),
            randn(2, 2 * taps, height, width, seed=5),
        ]
        shape = (2, outputs, height, width)
        differentiable(
            "actpoint", lambda *t: ops.actpoint_aggregate(*t, relu=True), tensors, dtype, shape
        )
        inputs = [tensors[0], tensors[4], tensors[2], tensors[3], tensors[1][:, :taps]]
        differentiable(
            "deform_conv2d",
            lambda x, o, w, b, m, p=k // 2: ops.deform_conv2d(x, o, w, b, padding=p, mask=m),
            inputs,
            dtype,
            shape,
        )
    for channels, outputs, groups, offset_groups in ((12, 6, 6, 3), (40, 74, 2, 8)):
        inputs = [
            randn(2, channels, 7, 6, seed=1),
            randn(2, 18 * offset_groups, 7, 6, seed=2, scale=4.0),
            randn(outputs, channels // groups, 3, 3, seed=3),
            randn(outputs, seed=4),
            randn(2, 9 * offset_groups, 7, 6, seed=5),
        ]
        differentiable(
            "deform_conv2d in groups",
            lambda x, o, w, b, m: ops.deform_conv2d(x, o, w, b, padding=1, mask=m),
            inputs,
            dtype,
            (2, outputs, 7, 6),
        )


def maps(dtype):
    for shape in ((2, 3, 13, 9), (1, 5, 4, 33), (1, 1, 1, 1)):
        target = torch.rand(shape).round(decimals=1)
        differentiable(
            "hna_loss", lambda x, t=target: ops.hna_loss(x, guarded(t, True)),
            [randn(*shape)], dtype, (),
        )  # fmt: skip
        for tensor in layouts(randn(*shape).to(dtype)):
            for size in (1, 3, 5):
                plain(
                    f"topk_peaks {dtype} {size}",
                    lambda t, s=size: ops.topk_peaks(t, 7, s),
                    [tensor],
                )


def main():
    for dtype in (torch.float32, torch.bfloat16):
        deformable(dtype)
        maps(dtype)
    plain("draw_heatmaps", lambda *t: [ops.draw_heatmaps(*t, SHAPE)], random_points(40, 0))
    *peaks, human, object_, table = random_case(0)
    flat = [t for kind in peaks for t in kind] + [human, object_, table]
    plain(
        "match_points",
        lambda *t: ops.match_points(t[:4], t[4:8], t[8:12], *t[12:]),
        flat,
    )


if __name__ == "__main__":
    main()

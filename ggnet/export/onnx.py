"""ONNX: standard operators only."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from ggnet.export import Runner
from ggnet.export.program import INPUT, OUTPUTS
from ggnet.export.standard import decompose

OPSET = 19  # the first with DeformConv


def write(program: ExportedProgram, path: Path) -> None:
    """See `ggnet.export`."""
    operators = torch.ops.ggnet
    table = {
        operators.actpoint_aggregate.default: _actpoint_aggregate,
        operators.deform_conv2d.default: _deform_conv2d,
        torch.ops.aten.sort.stable: _sort,
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    exported = torch.onnx.export(
        decompose(program),
        dynamo=True,
        opset_version=OPSET,
        custom_translation_table=table,
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    exported.save(path, external_data=False)


def load(path: Path) -> Runner:
    """See `ggnet.export`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> list[np.ndarray]:
        return session.run(list(OUTPUTS), {INPUT: images})

    return run


def _actpoint_aggregate(
    features, points, weight, bias=None, base_offset=None, relu=False, tf32=False
) -> Any:
    from onnxscript import opset19 as op

    side = weight.shape[-1]
    taps = side * side
    offset = op.Slice(points, [0], [2 * taps], [1])
    logits = op.Slice(points, [2 * taps], [3 * taps], [1])
    if base_offset is not None:
        offset = op.Add(offset, base_offset)
    output = op.DeformConv(
        features,
        weight,
        offset,
        bias,
        op.Sigmoid(logits),
        kernel_shape=[side, side],
        pads=[side // 2] * 4,
    )
    return op.Relu(output) if relu else output


def _deform_conv2d(
    input,
    offset,
    weight,
    bias,
    stride_h,
    stride_w,
    pad_h,
    pad_w,
    dilation_h,
    dilation_w,
    mask,
    tf32=False,
) -> Any:
    from onnxscript import opset19 as op

    return op.DeformConv(
        input,
        weight,
        offset,
        bias,
        mask,
        kernel_shape=list(weight.shape[2:]),
        strides=[stride_h, stride_w],
        pads=[pad_h, pad_w] * 2,
        dilations=[dilation_h, dilation_w],
        group=input.shape[1] // weight.shape[1],
        offset_group=offset.shape[1] // (2 * weight.shape[2] * weight.shape[3]),
    )


def _sort(values, *, stable, dim=-1, descending=False) -> Any:
    from onnxscript import opset19 as op

    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)

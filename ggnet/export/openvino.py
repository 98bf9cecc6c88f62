"""OpenVINO, through ONNX."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from ggnet.export import Runner, onnx
from ggnet.export.program import OUTPUTS


def write(program: ExportedProgram, path: Path) -> None:
    """See `ggnet.export`."""
    import openvino
    from openvino.frontend.onnx import ConversionExtension

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        between = Path(folder) / "model.onnx"
        onnx.write(program, between)
        extension = ConversionExtension("DeformConv", _deform_conv)
        model = openvino.convert_model(between, extension=extension)
        openvino.save_model(model, path, compress_to_fp16=False)


def load(path: Path) -> Runner:
    """See `ggnet.export`."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = compiled(images)
        return [found[name] for name in OUTPUTS]

    return run


def _deform_conv(node: Any) -> list:
    """ONNX's DeformConv, which OpenVINO's reader of ONNX does not know, in OpenVINO's own."""
    from openvino import opset8

    inputs = [node.get_input(i) for i in range(node.get_input_size())]
    features, weight, offset, bias, mask = inputs
    pads = node.get_attribute("pads", [0, 0, 0, 0])
    output = opset8.deformable_convolution(
        features,
        offset,
        weight,
        node.get_attribute("strides", [1, 1]),
        pads[:2],
        pads[2:],
        node.get_attribute("dilations", [1, 1]),
        mask,
        group=node.get_attribute("group", 1),
        deformable_group=node.get_attribute("offset_group", 1),
        bilinear_interpolation_pad=True,
    )
    shaped = opset8.reshape(bias, opset8.constant(np.array([1, -1, 1, 1])), special_zero=False)
    return [opset8.add(output, shaped).output(0)]

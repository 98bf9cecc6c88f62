"""A trained network for programs without this package, or without Python; one file a format.

A format is an `Exporter` in EXPORTERS. All write the same program, `Deployed`: images in, triplets
out; `ggnet.export.run.export` checks what was written before it keeps it.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.export import ExportedProgram

Runner = Callable[[np.ndarray], list[np.ndarray]]  # (B, 3, H, W) images -> OUTPUTS


class Exporter(NamedTuple):
    """A format.

    `module` has write(program: ExportedProgram, path: Path) -> None, which may leave further files
    beside `path`, and load(path: Path) -> Runner. Nothing but them imports `packages`.
    """

    summary: str  # a line for the help
    suffix: str
    module: str
    packages: tuple[str, ...] = ()  # to be installed, by their names for pip

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write the program to a file."""
        import_module(self.module).write(program, path)

    def load(self, path: Path) -> Runner:
        """What runs such a file on the CPU."""
        return import_module(self.module).load(path)


EXPORTERS = {
    "onnx": Exporter(
        "ONNX with standard operators only (DeformConv of opset 19), for ONNX Runtime and others",
        ".onnx",
        "ggnet.export.onnx",
        ("onnx", "onnxscript", "onnxruntime"),
    ),
    "openvino": Exporter(
        "OpenVINO's .xml and .bin, for CPUs",
        ".xml",
        "ggnet.export.openvino",
        ("onnx", "onnxscript", "openvino"),
    ),
    "torch": Exporter(
        "torch.export's package with this package's operators, for Python",
        ".pt2",
        "ggnet.export.torch_export",
    ),
    "aoti": Exporter(
        "AOTInductor's compiled package with this package's operators, for C++ and Python",
        ".pt2",
        "ggnet.export.aoti",
    ),
}

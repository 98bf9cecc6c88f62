"""AOTInductor: compiled ahead of time, to be loaded by C++ or Python."""

from pathlib import Path

import torch
from torch.export import ExportedProgram

from ggnet.export import Runner
from ggnet.export.torch_export import runner


def write(program: ExportedProgram, path: Path) -> None:
    """See `ggnet.export`."""
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def load(path: Path) -> Runner:
    """See `ggnet.export`."""
    return runner(torch._inductor.aoti_load_package(str(path)))

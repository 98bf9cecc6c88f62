"""torch.export's own package."""

from pathlib import Path

import numpy as np
import torch
from torch.export import ExportedProgram

from ggnet.export import Runner


def write(program: ExportedProgram, path: Path) -> None:
    """See `ggnet.export`."""
    torch.export.save(program, path)


def load(path: Path) -> Runner:
    """See `ggnet.export`."""
    module = torch.export.load(path).module()
    return runner(module)


def runner(module) -> Runner:
    """A module's function on arrays.

    In the order of their shape: a compiled program reads its input so, whatever the strides say.
    """

    @torch.inference_mode()
    def run(images: np.ndarray) -> list[np.ndarray]:
        images = np.ascontiguousarray(images)
        return [value.numpy() for value in module(torch.from_numpy(images))]

    return run

"""The program that every format holds: images in, triplets in pixels out."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ggnet.data.transforms import MEAN, STD
from ggnet.models import Detector

INPUT = "images"
OUTPUTS = (
    "scores",  # (B, K) falling; 0: no triplet
    "verbs",  # (B, K) int64
    "human_boxes",  # (B, K, 4) x1, y1, x2, y2 in pixels of the input
    "object_boxes",  # (B, K, 4)
    "human_scores",  # (B, K)
    "object_scores",  # (B, K)
    "object_labels",  # (B, K) int64
    "points",  # (B, K, 2) x, y of the interaction point in pixels
)
MOST = 64  # images in a batch of a dynamic program


class Deployed(nn.Module):
    """A detector with the arithmetic before and behind it.

    Args:
        detector: in evaluation mode.
        stride: of its network.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Detector, stride: int):
        super().__init__()
        self.detector, self.stride = detector, stride
        for name, value in (("mean", MEAN), ("std", STD)):
            tensor = torch.tensor(np.asarray(value, np.float32)).view(3, 1, 1)
            self.register_buffer(name, tensor)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) float32 RGB from 0 to 1, letterboxed -> what OUTPUTS names."""
        found = self.detector((images - self.mean) / self.std)
        return (
            found.scores,
            found.verbs,
            found.human_boxes * self.stride,
            found.object_boxes * self.stride,
            found.human_scores,
            found.object_scores,
            found.object_labels,
            # A cell's value belongs to the cell's middle.
            (found.interaction_yx.flip(2) + 0.5) * self.stride,
        )


def trace(
    module: Deployed,
    size: tuple[int, int],
    *,
    size_multiple: int,
    batch: int | None = None,
    fixed_size: bool = True,
) -> ExportedProgram:
    """The module as a graph.

    Args:
        size: height and width to trace with, and to keep if `fixed_size`.
        size_multiple: of the backbone; sides of a program of any size are multiples.
        batch: images at once; None: 1 to MOST.
    """
    images = torch.zeros(batch or 2, 3, *size)
    shapes: dict[int, Dim] = {}
    if batch is None:
        shapes[0] = Dim("batch", min=1, max=MOST)
    if not fixed_size:
        most = 4096 // size_multiple
        for axis, name in ((2, "height"), (3, "width")):
            shapes[axis] = size_multiple * Dim(f"{name}_units", min=1, max=most)
    with torch.no_grad():
        return torch.export.export(
            module, (images,), dynamic_shapes=(shapes or None,), strict=False
        )

"""This package's decoding operators in terms of PyTorch's own, for formats that know only those."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram

from ggnet import reference
from ggnet.ops.match_points import RULES


def decompose(program: ExportedProgram) -> ExportedProgram:
    """The program with `topk_peaks` and `match_points` written out; the deformable convolutions
    stay."""
    operators = torch.ops.ggnet
    return program.run_decompositions(
        {
            operators.topk_peaks.default: _topk_peaks,
            operators.match_points.default: _match_points,
        }
    )


def _topk_peaks(logits: Tensor, k: int, kernel_size: int) -> tuple[Tensor, ...]:
    """As the definition, but by a top-k, whose ties ONNX orders by index, in place of a sort."""
    _, _, height, width = logits.shape
    highest = F.max_pool2d(logits, kernel_size, stride=1, padding=kernel_size // 2)
    flat = torch.where(logits == highest, logits, float("-inf")).flatten(1)
    values, index = flat.topk(k, dim=1)
    index = torch.where(values > float("-inf"), index, 0)
    # Tensors, as ONNX's remainder by a size that is known only at run time does not exist.
    area, row = (torch.full((1, 1), n, dtype=torch.int64) for n in (height * width, width))
    channels = torch.div(index, area, rounding_mode="floor")
    cells = index - channels * area
    ys = torch.div(cells, row, rounding_mode="floor")
    return values.sigmoid(), channels, ys, cells - ys * row


def _match_points(
    interactions: list[Tensor],
    humans: list[Tensor],
    objects: list[Tensor],
    human_offsets: Tensor,
    object_offsets: Tensor,
    valid_pairs: Tensor | None,
    rule: int,
    identity: int,
) -> tuple[Tensor, ...]:
    return reference.match_points(
        tuple(interactions),
        tuple(humans),
        tuple(objects),
        human_offsets,
        object_offsets,
        valid_pairs,
        rule=RULES[rule],
        allow_same=identity == 0,
        one_list=identity == 2,
    )

"""Action-aware point matching: GGNet (CVPR 2021), Eq. 8."""

import torch
import torch.nn.functional as F
from torch import Tensor

Peaks = tuple[Tensor, Tensor, Tensor, Tensor]


def match_points(
    interactions: Peaks,
    humans: Peaks,
    objects: Peaks,
    human_offsets: Tensor,
    object_offsets: Tensor,
    valid_pairs: Tensor | None = None,
    *,
    rule: str = "product",
    allow_same: bool = False,
    one_list: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find for every interaction the human and the object that its offsets point at.

    With (dy, dx) = interaction - offset - candidate and s the candidate's score, a match

        rule "product"     maximizes s / ((|dy| + 1) (|dx| + 1))     (the published code)
        rule "distance"    minimizes (|dy| + |dx|) / s               (Eq. 8)

    Only candidates with a finite positive score at a finite distance can match, and only objects
    whose class is valid with the interaction's verb. Ties: smaller index.

    Where the best human and the best object are one detection, one of them gives way to its side's
    best of the others: the one that leaves the larger product of what "product" maximizes, or the
    smaller sum of what "distance" minimizes; the object where both are equal, and where neither
    side has another. That is the best of all pairs of two detections.

    Args:
        interactions, humans, objects: (scores, channels, ys, xs), each (B, K) with its own K, as
            `topk_peaks` returns them; channels are verbs, the person's class, and object classes.
        human_offsets, object_offsets: (B, K, 2) of the interactions, (y, x) in cells, interaction
            minus center.
        valid_pairs: (V, num_objects) bool; None: all are valid.
        allow_same: one detection may be human and object of a triplet, as in the published code.
        one_list: humans and objects are one list of detections, so that those with equal indices
            are one detection; else those with equal class and cell are, as peaks of one heatmap.

    Returns:
        human index, object index, score: each (B, K). Index -1: nothing can match. score is the
        product of the three scores, 0 where an index is -1.
    """
    scores, verbs, ys, xs = interactions
    cells = torch.stack([ys, xs], dim=-1)
    human_quality, human_valid = _rate(cells - human_offsets, humans, rule)
    object_quality, object_valid = _rate(cells - object_offsets, objects, rule)
    if valid_pairs is not None:
        object_valid = object_valid & valid_pairs[verbs[:, :, None], objects[1][:, None]]
    human, object_ = _best(human_quality, human_valid), _best(object_quality, object_valid)
    if not allow_same and humans[0].shape[1] and objects[0].shape[1]:
        same = _same(humans, objects, one_list)
        of_human, of_object = _rows(same, human), _rows(same.mT, object_)
        both = (human >= 0) & (object_ >= 0) & _at(of_human, object_)
        other_human = _best(human_quality, human_valid & ~of_object)
        other_object = _best(object_quality, object_valid & ~of_human)
        together = torch.mul if rule == "product" else torch.add
        human_first = together(_at(human_quality, human), _at(object_quality, other_object))
        object_first = together(_at(human_quality, other_human), _at(object_quality, object_))
        gives_way = (other_human >= 0) & ((other_object < 0) | (object_first > human_first))
        human = torch.where(both & gives_way, other_human, human)
        object_ = torch.where(both & ~gives_way, other_object, object_)
    return human, object_, scores * _score(humans, human) * _score(objects, object_)


def _score(candidates: Peaks, index: Tensor) -> Tensor:
    """Scores of the matched candidates, 0 where the index is -1."""
    return F.pad(candidates[0], (1, 0)).gather(1, index + 1)


def _rate(points: Tensor, candidates: Peaks, rule: str) -> tuple[Tensor, Tensor]:
    """How well each of N candidates matches each of (B, K, 2) points, and whether it can."""
    scores, _, ys, xs = candidates
    dy = (points[:, :, None, 0] - ys[:, None]).abs()
    dx = (points[:, :, None, 1] - xs[:, None]).abs()
    s = scores[:, None]
    quality = s / ((dy + 1) * (dx + 1)) if rule == "product" else -(dy + dx) / s
    return quality, (s > 0) & s.isfinite() & (dy + dx).isfinite()


def _best(quality: Tensor, valid: Tensor) -> Tensor:
    """(B, K): index of the first of the best of (B, K, N) candidates, -1 if there is none."""
    if not valid.shape[2]:
        return torch.full(valid.shape[:2], -1, device=valid.device)
    best = torch.where(valid, quality, float("-inf")).amax(dim=2, keepdim=True)
    first = (valid & (quality == best)).int().argmax(dim=2)
    return torch.where(valid.any(dim=2), first, -1)


def _same(humans: Peaks, objects: Peaks, one_list: bool) -> Tensor:
    """(B, humans, objects): whether they are one detection."""
    if one_list:
        batch, count = objects[0].shape
        return torch.eye(count, dtype=torch.bool, device=objects[0].device).expand(batch, -1, -1)
    parts = zip(humans[1:], objects[1:], strict=True)
    return torch.stack([a[:, :, None] == b[:, None] for a, b in parts]).all(dim=0)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """(B, K, N): rows of (B, M, N) at (B, K) indices; of row 0 for -1."""
    return table.gather(1, index.clamp(min=0)[:, :, None].expand(-1, -1, table.shape[2]))


def _at(values: Tensor, index: Tensor) -> Tensor:
    """(B, K): of the last dimension of (B, K, N) the value at the index; at 0 for -1."""
    return values.gather(2, index.clamp(min=0)[:, :, None])[:, :, 0]

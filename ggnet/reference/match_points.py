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
) -> tuple[Tensor, Tensor, Tensor]:
    """Find for every interaction the human and the object that its offsets point at.

    With (dy, dx) = interaction - offset - candidate and s the candidate's score, a match

        rule "product"     maximizes s / ((|dy| + 1) (|dx| + 1))     (the published code)
        rule "distance"    minimizes (|dy| + |dx|) / s               (Eq. 8)

    Only candidates with a positive score and a finite distance can match, and only objects whose
    class is valid with the interaction's verb. Ties: smaller index.

    Args:
        interactions, humans, objects: (scores, channels, ys, xs), each (B, K) with its own K, as
            `topk_peaks` returns them; channels are verbs, nothing, and object classes.
        human_offsets, object_offsets: (B, K, 2) of the interactions, (y, x) in cells, interaction
            minus center.
        valid_pairs: (V, num_objects) bool; None: all are valid.

    Returns:
        human index, object index, score: each (B, K). Index -1: nothing can match. score is the
        product of the three scores, 0 where an index is -1.
    """
    scores, verbs, ys, xs = interactions
    valid = torch.ones((), dtype=torch.bool, device=scores.device)
    object_valid = (
        valid if valid_pairs is None else valid_pairs[verbs[:, :, None], objects[1][:, None]]
    )
    cells = torch.stack([ys, xs], dim=-1)
    human = _match(cells - human_offsets, humans, valid, rule)
    object_ = _match(cells - object_offsets, objects, object_valid, rule)
    return human, object_, scores * _score(humans, human) * _score(objects, object_)


def _score(candidates: Peaks, index: Tensor) -> Tensor:
    """Scores of the matched candidates, 0 where the index is -1."""
    return F.pad(candidates[0], (1, 0)).gather(1, index + 1)


def _match(points: Tensor, candidates: Peaks, valid: Tensor, rule: str) -> Tensor:
    """Index of the best candidate of each of (B, K, 2) points, -1 if there is none."""
    scores, _, ys, xs = candidates
    dy = (points[:, :, None, 0] - ys[:, None]).abs()
    dx = (points[:, :, None, 1] - xs[:, None]).abs()
    s = scores[:, None]
    quality = s / ((dy + 1) * (dx + 1)) if rule == "product" else -(dy + dx) / s
    valid = valid & (s > 0) & (dy + dx).isfinite()
    if not valid.shape[2]:
        return torch.full(valid.shape[:2], -1, device=valid.device)
    best = torch.where(valid, quality, float("-inf")).argmax(dim=2)
    return torch.where(valid.any(dim=2), best, -1)

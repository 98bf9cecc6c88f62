"""Action-aware point matching: GGNet (CVPR 2021), Eq. 8."""

import torch
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
    object_scores, classes = objects[:2]
    human_valid = torch.ones(
        *scores.shape, humans[0].shape[1], dtype=torch.bool, device=scores.device
    )
    if valid_pairs is None:
        object_valid = torch.ones(
            *scores.shape, classes.shape[1], dtype=torch.bool, device=scores.device
        )
    else:
        object_valid = valid_pairs[verbs[:, :, None], classes[:, None, :]]
    cells = torch.stack([ys, xs], dim=-1)
    human = _match(cells - human_offsets, humans, human_valid, rule)
    object_ = _match(cells - object_offsets, objects, object_valid, rule)
    matched = (human >= 0) & (object_ >= 0)
    score = (
        scores
        * humans[0].gather(1, human.clamp(min=0))
        * object_scores.gather(1, object_.clamp(min=0))
    )
    return human, object_, torch.where(matched, score, 0)


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

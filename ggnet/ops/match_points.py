"""Action-aware point matching: GGNet (CVPR 2021), Eq. 8."""

import torch
from torch import Tensor

from ggnet.ops import _check, _layout
from ggnet.ops._autocast import register_autocast
from ggnet.ops._backend import resolve_operator

Peaks = tuple[Tensor, Tensor, Tensor, Tensor]
RULES = ("product", "distance")


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

    Not differentiable: the score carries no gradient. Under autocast floating-point tensors are
    cast to float32.

    Args:
        interactions, humans, objects: (scores, channels, ys, xs), each (B, K) with its own K, as
            `topk_peaks` returns them; channels are verbs, the person's class, and object classes.
        human_offsets, object_offsets: (B, K, 2) of the interactions, (y, x) in cells, interaction
            minus center; of the dtype of the scores.
        valid_pairs: (V, num_objects) bool; None: all are valid.
        rule: "product" or "distance".
        allow_same: one detection may be human and object of a triplet, as in the published code.
        one_list: humans and objects are one list of detections, so that those with equal indices
            are one detection; else those with equal class and cell are, as peaks of one heatmap.

    Returns:
        human index, object index (int64), score: each (B, K). Index -1: nothing can match. score
        is the product of the three scores, 0 where an index is -1.

    Raises:
        ValueError: a shape, device or rule that does not fit.
        TypeError: a dtype that does not fit.
        BackendError: no kernel for this device, or not in the chosen backend.
    """
    _peaks("interactions", interactions)
    scores = interactions[0]
    for name, peaks in (("humans", humans), ("objects", objects)):
        _peaks(name, peaks)
        if peaks[0].shape[0] != scores.shape[0]:
            raise ValueError(
                f"{name} are of {peaks[0].shape[0]} images; expected {scores.shape[0]}, as the "
                "interactions"
            )
        _check.like("interactions", scores, **{name: peaks[0]})
    for name, offsets in (("human_offsets", human_offsets), ("object_offsets", object_offsets)):
        _check.shape(name, offsets, (*scores.shape, 2), "(B, K, 2)")
        _check.like("interactions", scores, **{name: offsets})
    if valid_pairs is not None:
        _check.tensor("valid_pairs", valid_pairs, 2)
        _check.dtype("valid_pairs", valid_pairs, torch.bool)
        _check.same_device("interactions", scores, valid_pairs=valid_pairs)
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(RULES)}")
    operator = resolve_operator("match_points", scores)
    with torch.no_grad():
        return operator(
            list(interactions),
            list(humans),
            list(objects),
            human_offsets,
            object_offsets,
            valid_pairs,
            RULES.index(rule),
            0 if allow_same else 2 if one_list else 1,
        )


def _peaks(name: str, peaks: Peaks) -> None:
    if len(peaks) != 4:
        raise ValueError(f"{name} has {len(peaks)} tensors; expected (scores, channels, ys, xs)")
    scores = peaks[0]
    _check.tensor(f"{name}[0] (scores)", scores, 2)
    _check.dtype(f"{name}[0] (scores)", scores, torch.float32, torch.float64)
    for i, part in enumerate(("channels", "ys", "xs"), start=1):
        label = f"{name}[{i}] ({part})"
        _check.shape(label, peaks[i], scores.shape, "(B, K)")
        _check.dtype(label, peaks[i], torch.int64)
        _check.same_device(f"{name}[0] (scores)", scores, **{label: peaks[i]})


def _fake(
    interactions, humans, objects, human_offsets, object_offsets, valid_pairs, rule, identity
):
    scores = interactions[0]
    index = _layout.empty(scores.shape, scores, dtype=torch.int64)
    return index, torch.empty_like(index), _layout.empty(scores.shape, scores)


def register(namespace: str) -> None:
    """Register the fake kernel and autocast of `namespace`'s operator."""
    torch.library.register_fake(f"{namespace}::match_points", _fake)
    register_autocast(namespace, "match_points", torch.float32)


register("ggnet")

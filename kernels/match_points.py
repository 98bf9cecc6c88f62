"""match_points in Triton: one pass over the candidates for each block of interactions."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from ggnet.kernels.common import NAMESPACE, operator, wrap_triton
from torch import Tensor

from ggnet.ops.match_points import register

BLOCK_I, BLOCK_J = 8, 64


@triton.jit
def divide(a, b):
    """a / b rounded as IEEE says: a tie must not become an order."""
    if a.dtype == tl.float64:
        return a / b
    return tl.div_rn(a, b)


@triton.jit
def best_match(
    py,
    px,
    verbs,
    live,
    scores,
    classes,
    ys,
    xs,
    valid_pairs,
    b,
    count,
    num_verbs,
    num_objects,
    excluded,
    excluded_class,
    excluded_y,
    excluded_x,
    RULE: tl.constexpr,
    CHECK_PAIRS: tl.constexpr,
    EXCLUDE: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Index and quality of each point's best candidate; -1 where there is none.

    EXCLUDE: 0: none; 1: each point's excluded class and cell; 2: its excluded index.
    """
    quality = tl.full(py.shape, float("-inf"), py.dtype)
    index = tl.full(py.shape, -1, tl.int32)
    for first in range(0, count, BLOCK_J):
        j = first + tl.arange(0, BLOCK_J)
        at = b * count + j
        here = j < count
        s = tl.load(scores + at, mask=here, other=0.0)[None, :]
        y = tl.load(ys + at, mask=here, other=0)[None, :]
        x = tl.load(xs + at, mask=here, other=0)[None, :]
        dy = tl.abs(py[:, None] - y.to(py.dtype))
        dx = tl.abs(px[:, None] - x.to(py.dtype))
        valid = (s > 0) & (s < float("inf")) & (dy + dx < float("inf"))  # NaN is not
        if CHECK_PAIRS or EXCLUDE == 1:
            kind = tl.load(classes + at, mask=here, other=0)[None, :]
        if CHECK_PAIRS:
            pair = verbs[:, None] * num_objects + kind
            named = (verbs[:, None] >= 0) & (verbs[:, None] < num_verbs)
            named = named & (kind >= 0) & (kind < num_objects) & live[:, None] & here[None, :]
            valid = valid & (tl.load(valid_pairs + pair, mask=named, other=0) != 0)
        if EXCLUDE == 1:
            same = (kind == excluded_class[:, None]) & (y == excluded_y[:, None])
            valid = valid & ~(same & (x == excluded_x[:, None]))
        if EXCLUDE == 2:
            valid = valid & (j[None, :] != excluded[:, None])
        if RULE == 0:
            match = divide(s + tl.zeros_like(dy), (dy + 1.0) * (dx + 1.0))
        else:
            match = -divide(dy + dx, tl.where(s > 0, s, 1.0) + tl.zeros_like(dy))
        match = tl.where(valid, match, float("-inf"))
        top, place = tl.max(match, axis=1, return_indices=True, return_indices_tie_break_left=True)
        # Below the largest finite distance a quality can be -inf all the same: then the first.
        any_valid = tl.max(valid.to(tl.int32), axis=1) > 0
        first_valid = tl.min(tl.where(valid, tl.arange(0, BLOCK_J)[None, :], BLOCK_J), axis=1)
        place = tl.where(top == float("-inf"), first_valid, place)
        better = any_valid & ((index < 0) | (top > quality))
        index = tl.where(better, first + place, index)
        quality = tl.where(better, top, quality)
    return index, quality


@triton.jit
def together(a, b, RULE: tl.constexpr):
    return a * b if RULE == 0 else a + b


@triton.jit
def match_kernel(
    scores,
    verbs,
    ys,
    xs,
    human_scores,
    human_classes,
    human_ys,
    human_xs,
    object_scores,
    object_classes,
    object_ys,
    object_xs,
    human_offsets,
    object_offsets,
    valid_pairs,
    human,
    object_,
    out_scores,
    count,
    humans,
    objects,
    num_verbs,
    num_objects,
    RULE: tl.constexpr,
    CHECK_PAIRS: tl.constexpr,
    IDENTITY: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    b = tl.program_id(1)
    i = tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    live = i < count
    at = b * count + i
    s = tl.load(scores + at, mask=live, other=0.0)
    verb = tl.load(verbs + at, mask=live, other=0)
    y = tl.load(ys + at, mask=live, other=0).to(s.dtype)
    x = tl.load(xs + at, mask=live, other=0).to(s.dtype)
    hy = y - tl.load(human_offsets + 2 * at, mask=live, other=0.0)
    hx = x - tl.load(human_offsets + 2 * at + 1, mask=live, other=0.0)
    oy = y - tl.load(object_offsets + 2 * at, mask=live, other=0.0)
    ox = x - tl.load(object_offsets + 2 * at + 1, mask=live, other=0.0)
    none = tl.full(y.shape, -1, tl.int32)
    human_index, human_quality = best_match(
        hy, hx, verb, live, human_scores, human_classes, human_ys, human_xs, valid_pairs,
        b, humans, num_verbs, num_objects, none, verb, verb, verb, RULE, False, 0, BLOCK_J,
    )  # fmt: skip
    object_index, object_quality = best_match(
        oy, ox, verb, live, object_scores, object_classes, object_ys, object_xs, valid_pairs,
        b, objects, num_verbs, num_objects, none, verb, verb, verb, RULE, CHECK_PAIRS, 0, BLOCK_J,
    )  # fmt: skip
    if IDENTITY != 0:
        matched = (human_index >= 0) & (object_index >= 0)
        at_human = b * humans + human_index
        at_object = b * objects + object_index
        kind = tl.load(human_classes + at_human, mask=matched, other=0)
        cell_y = tl.load(human_ys + at_human, mask=matched, other=0)
        cell_x = tl.load(human_xs + at_human, mask=matched, other=0)
        if IDENTITY == 1:
            same = kind == tl.load(object_classes + at_object, mask=matched, other=0)
            same = same & (cell_y == tl.load(object_ys + at_object, mask=matched, other=0))
            same = same & (cell_x == tl.load(object_xs + at_object, mask=matched, other=0))
        else:
            same = human_index == object_index
        same = same & matched
        if tl.max(same.to(tl.int32), axis=0) > 0:
            other_human, other_human_quality = best_match(
                hy, hx, verb, live, human_scores, human_classes, human_ys, human_xs, valid_pairs,
                b, humans, num_verbs, num_objects, human_index, kind, cell_y, cell_x,
                RULE, False, IDENTITY, BLOCK_J,
            )  # fmt: skip
            other_object, other_object_quality = best_match(
                oy, ox, verb, live, object_scores, object_classes, object_ys, object_xs,
                valid_pairs, b, objects, num_verbs, num_objects, human_index, kind, cell_y, cell_x,
                RULE, CHECK_PAIRS, IDENTITY, BLOCK_J,
            )  # fmt: skip
            object_first = together(other_human_quality, object_quality, RULE)
            human_first = together(human_quality, other_object_quality, RULE)
            gives_way = (other_human >= 0) & ((other_object < 0) | (object_first > human_first))
            human_index = tl.where(same & gives_way, other_human, human_index)
            object_index = tl.where(same & ~gives_way, other_object, object_index)
    matched = live & (human_index >= 0) & (object_index >= 0)
    human_score = tl.load(human_scores + b * humans + human_index, mask=matched, other=0.0)
    object_score = tl.load(object_scores + b * objects + object_index, mask=matched, other=0.0)
    tl.store(human + at, human_index.to(tl.int64), mask=live)
    tl.store(object_ + at, object_index.to(tl.int64), mask=live)
    tl.store(out_scores + at, s * human_score * object_score, mask=live)


@operator("match_points")
def match_points(
    interactions: Sequence[Tensor],
    humans: Sequence[Tensor],
    objects: Sequence[Tensor],
    human_offsets: Tensor,
    object_offsets: Tensor,
    valid_pairs: Tensor | None,
    rule: int,
    identity: int,
) -> tuple[Tensor, Tensor, Tensor]:
    scores, verbs, ys, xs = (t.contiguous() for t in interactions)
    human_scores, human_classes, human_ys, human_xs = (t.contiguous() for t in humans)
    object_scores, object_classes, object_ys, object_xs = (t.contiguous() for t in objects)
    batch, count = scores.shape
    human = torch.empty(scores.shape, dtype=torch.int64, device=scores.device)
    object_ = torch.empty_like(human)
    out = torch.empty_like(scores)
    pairs = object_classes if valid_pairs is None else valid_pairs.contiguous()
    if out.numel() > 0:
        wrap_triton(match_kernel)[(triton.cdiv(count, BLOCK_I), batch)](
            *(scores, verbs, ys, xs, human_scores, human_classes, human_ys, human_xs),
            *(object_scores, object_classes, object_ys, object_xs),
            *(human_offsets.contiguous(), object_offsets.contiguous(), pairs),
            *(human, object_, out, count, human_scores.shape[1], object_scores.shape[1]),
            *((1, 1) if valid_pairs is None else valid_pairs.shape),
            RULE=rule,
            CHECK_PAIRS=valid_pairs is not None,
            IDENTITY=identity,
            BLOCK_I=BLOCK_I,
            BLOCK_J=BLOCK_J,
        )
    return human, object_, out


register(NAMESPACE)

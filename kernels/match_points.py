"""match_points in Triton: one pass over the candidates for each block of interactions."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from ggnet.kernels.common import NAMESPACE, operator, wrap_triton
from torch import Tensor

from ggnet.ops.match_points import register

BLOCK_I, BLOCK_J = 16, 64


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
    num_objects,
    RULE: tl.constexpr,
    CHECK_PAIRS: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Index and score of each point's best candidate; -1 and 0 where there is none."""
    quality = tl.full(py.shape, float("-inf"), py.dtype)
    index = tl.full(py.shape, -1, tl.int32)
    for first in range(0, count, BLOCK_J):
        j = first + tl.arange(0, BLOCK_J)
        at = b * count + j
        here = j < count
        s = tl.load(scores + at, mask=here, other=0.0)[None, :]
        y = tl.load(ys + at, mask=here, other=0).to(py.dtype)[None, :]
        x = tl.load(xs + at, mask=here, other=0).to(py.dtype)[None, :]
        dy = tl.abs(py[:, None] - y)
        dx = tl.abs(px[:, None] - x)
        valid = (s > 0) & (dy + dx < float("inf"))  # NaN is not
        if CHECK_PAIRS:
            kind = tl.load(classes + at, mask=here, other=0)[None, :]
            pair = verbs[:, None] * num_objects + kind
            allowed = tl.load(valid_pairs + pair, mask=live[:, None] & here[None, :], other=0)
            valid = valid & (allowed != 0)
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
    score = tl.load(scores + b * count + index, mask=index >= 0, other=0.0)
    return index, score


@triton.jit
def match_kernel(
    scores,
    verbs,
    ys,
    xs,
    human_scores,
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
    num_objects,
    RULE: tl.constexpr,
    CHECK_PAIRS: tl.constexpr,
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
    py = y - tl.load(human_offsets + 2 * at, mask=live, other=0.0)
    px = x - tl.load(human_offsets + 2 * at + 1, mask=live, other=0.0)
    human_index, human_score = best_match(
        py, px, verb, live, human_scores, object_classes, human_ys, human_xs, valid_pairs,
        b, humans, num_objects, RULE, False, BLOCK_J,
    )  # fmt: skip
    py = y - tl.load(object_offsets + 2 * at, mask=live, other=0.0)
    px = x - tl.load(object_offsets + 2 * at + 1, mask=live, other=0.0)
    object_index, object_score = best_match(
        py, px, verb, live, object_scores, object_classes, object_ys, object_xs, valid_pairs,
        b, objects, num_objects, RULE, CHECK_PAIRS, BLOCK_J,
    )  # fmt: skip
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
) -> tuple[Tensor, Tensor, Tensor]:
    scores, verbs, ys, xs = (t.contiguous() for t in interactions)
    human_scores, _, human_ys, human_xs = (t.contiguous() for t in humans)
    object_scores, classes, object_ys, object_xs = (t.contiguous() for t in objects)
    batch, count = scores.shape
    human = torch.empty(scores.shape, dtype=torch.int64, device=scores.device)
    object_ = torch.empty_like(human)
    out = torch.empty_like(scores)
    pairs = classes if valid_pairs is None else valid_pairs.contiguous()
    if out.numel() > 0:
        wrap_triton(match_kernel)[(triton.cdiv(count, BLOCK_I), batch)](
            *(scores, verbs, ys, xs, human_scores, human_ys, human_xs),
            *(object_scores, classes, object_ys, object_xs),
            *(human_offsets.contiguous(), object_offsets.contiguous(), pairs),
            *(human, object_, out, count, human_scores.shape[1], object_scores.shape[1]),
            1 if valid_pairs is None else valid_pairs.shape[1],
            RULE=rule,
            CHECK_PAIRS=valid_pairs is not None,
            BLOCK_I=BLOCK_I,
            BLOCK_J=BLOCK_J,
        )
    return human, object_, out


register(NAMESPACE)

"""COCO's precision curves of detected boxes: matched here at once, summed up by pycocotools.

pycocotools matches in Python, an image and a class at a time: 40 s at the size of HICO-DET's test
set, where a training's other processes wait. Its rules are kept to the last bit.
"""

import contextlib
import io
from collections.abc import Sequence

import numpy as np
from pycocotools.cocoeval import COCOeval

from ggnet.data.annotations import ImageRecord
from ggnet.eval.boxes import candidates
from ggnet.eval.predictions import ImageDetections

MAX_DETECTIONS = 100  # of an image and a class


def precision_curves(
    found: Sequence[ImageDetections], records: Sequence[ImageRecord], classes: int
) -> np.ndarray:
    """(10 IoUs from 0.5 to 0.95, 101 recalls, classes) precision; -1 for a class without truth.

    Args:
        found: the boxes of an image each, of images in `records`.
        classes: how many object classes there are.
    """
    image_of = {record.image_id: number for number, record in enumerate(records)}
    true_boxes, true_groups = _of_images(
        range(len(records)), [r.boxes for r in records], [r.labels for r in records], classes
    )
    boxes, groups = _of_images(
        [image_of[f.image_id] for f in found],
        [f.boxes for f in found],
        [f.labels for f in found],
        classes,
    )
    scores = np.concatenate([np.zeros(0), *(f.scores for f in found)])
    order = np.argsort(true_groups, kind="stable")
    true_boxes, true_groups = true_boxes[order], true_groups[order]
    order = np.lexsort([-scores, groups])
    order = order[_ranks(groups[order]) < MAX_DETECTIONS]
    boxes, groups, scores = boxes[order], groups[order], scores[order]

    evaluation = COCOeval(iouType="bbox")
    params = evaluation._paramsEval = evaluation.params
    # One image for pycocotools, with a row a class: it only joins them and sorts by score.
    params.imgIds, params.catIds = [0], list(range(classes))
    params.areaRng, params.areaRngLbl = [[0, np.inf]], ["all"]
    params.maxDets = [max(len(scores), 1)]
    matched = _match(boxes, groups, true_boxes, true_groups, params.iouThrs)
    truth = np.bincount(true_groups % classes, minlength=classes)
    evaluation.evalImgs = [
        {
            "dtScores": scores[rows],
            "dtMatches": matched[:, rows],
            "dtIgnore": np.zeros((len(matched), len(rows)), bool),
            "gtIgnore": np.zeros(count, bool),
        }
        for rows, count in zip(_by_class(groups, classes), truth, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 0]


def _of_images(
    images: Sequence[int], boxes: list[np.ndarray], labels: list[np.ndarray], classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """All boxes as (n, 4) float64 x, y, width, height, and the image and class of each as one
    number."""
    corners = np.concatenate([np.zeros((0, 4)), *boxes])
    image = np.repeat(np.asarray(images, np.int64), [len(b) for b in boxes])
    group = image * classes + np.concatenate([np.zeros(0, np.int64), *labels])
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]), group


def _ranks(groups: np.ndarray) -> np.ndarray:
    """How many equal numbers stand before each one; the numbers are sorted."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


def _by_class(groups: np.ndarray, classes: int) -> list[np.ndarray]:
    """The rows of each class, in the order of the images."""
    order = np.argsort(groups % classes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(groups % classes, minlength=classes))[:-1])


def _match(
    boxes: np.ndarray,
    groups: np.ndarray,
    true_boxes: np.ndarray,
    true_groups: np.ndarray,
    thresholds: np.ndarray,
) -> np.ndarray:
    """(thresholds, n) whether each detection has a true box of its own.

    In the order of the scores each takes the box that it overlaps most of those left, the last of
    equal ones; the groups are matched side by side, a rank of detections after the other.
    """
    matched = np.zeros((len(thresholds), len(boxes)), bool)
    taken = np.zeros((len(thresholds), len(true_boxes)), bool)
    least = np.minimum(thresholds, 1 - 1e-10)
    pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for left, right in candidates(groups, true_groups):
        overlap = _iou(boxes[left], true_boxes[right])
        near = overlap >= least.min()
        pairs.append((left[near], right[near], overlap[near]))
    left, right, overlap = (np.concatenate(columns) for columns in zip(*pairs, strict=True))
    rank = _ranks(groups)[left]
    order = np.lexsort([-right, -overlap, left, rank])
    left, right, overlap, rank = (values[order] for values in (left, right, overlap, rank))
    bounds = np.searchsorted(rank, np.arange(MAX_DETECTIONS + 1))
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        for t in range(len(least)):
            rows = (
                np.flatnonzero((overlap[begin:end] >= least[t]) & ~taken[t, right[begin:end]])
                + begin
            )
            rows = rows[np.flatnonzero(np.diff(left[rows], prepend=-1))]  # the best of each
            matched[t, left[rows]] = taken[t, right[rows]] = True
    return matched


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row, in pycocotools' order of operations; x, y, width, height."""
    ends = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    sides = np.maximum(ends - np.maximum(a[:, :2], b[:, :2]), 0)
    both = sides[:, 0] * sides[:, 1]
    union = a[:, 2] * a[:, 3] + b[:, 2] * b[:, 3] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)

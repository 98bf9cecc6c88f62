"""Boxes that were drawn more than once around the same thing.

HICO-DET's annotators drew person and object anew for each verb: 35 % of its boxes repeat another.
Trained on as they are, the verbs of one pair contradict each other from a few pixels away.
"""

import numpy as np

from ggnet.data.formats.entry import Entry

MIN_IOU = 0.5  # above it, two boxes of a class are of the same thing


def first_of_each(boxes: np.ndarray, labels: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(n,) int64: for each box the first one of the same thing, itself where there is none before.

    Args:
        boxes: (n, 4) edges.
        labels: (n,) of any kind.
        pairs: (m, 2 or more) human and object, indices into boxes. These two are never the same
            thing, however much they overlap.
    """
    same = (_iou(boxes) > MIN_IOU) & (labels[:, None] == labels)
    related = np.zeros_like(same)
    related[pairs[:, 0], pairs[:, 1]] = related[pairs[:, 1], pairs[:, 0]] = True
    first = np.arange(len(boxes))
    for box in np.flatnonzero(np.tril(same, -1).any(axis=1)):
        for other in np.flatnonzero(same[box, :box] & (first[:box] == np.arange(box))):
            if not related[box, other]:
                first[box] = other
                related[other] |= related[box]
                related[:, other] |= related[box]
                break
    return first


def merged(entry: Entry) -> Entry:
    """The image with each thing's first box alone, its pairs' verbs united."""
    rows = list(entry.boxes)
    values = np.array(rows, dtype=np.float64).reshape(-1, 5)
    pairs = np.array(list(entry.pairs), dtype=np.int64).reshape(-1, 3)
    first = first_of_each(values[:, :4], values[:, 4], pairs)
    result = Entry(entry.file_name, entry.image_id, entry.known_objects)
    index = {int(box): result.box(rows[box][:4], rows[box][4]) for box in np.unique(first)}
    for human, object_, verb in entry.pairs:
        result.pair(index[int(first[human])], index[int(first[object_])], verb)
    return result


def _iou(boxes: np.ndarray) -> np.ndarray:
    """(n, n) of all boxes with each other."""
    corners = (
        np.maximum(boxes[:, None, :2], boxes[:, :2]),
        np.minimum(boxes[:, None, 2:], boxes[:, 2:]),
    )
    shared = np.maximum(corners[1] - corners[0], 0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    union = areas[:, None] + areas - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)

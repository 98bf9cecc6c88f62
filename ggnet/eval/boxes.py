"""Overlap of boxes given by their edges."""

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) float64 intersection over union of the boxes (n, 4) and (n, 4), row by row.

    Boxes are edges [x1, y1, x2, y2]. Evaluators that count inclusive pixels and add 1 to widths and
    heights get the same from boxes whose x2 and y2 are one larger.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.maximum(sides, 0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)

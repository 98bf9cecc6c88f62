"""Overlap of boxes given by their edges."""

from collections.abc import Iterator

import numpy as np

CHUNK = 1 << 20  # candidates at once


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


def candidates(keys: np.ndarray, targets: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every (i, j) with keys[i] == targets[j], sorted, in chunks of bounded size.

    Args:
        keys: (n,) int64 in any order.
        targets: (m,) int64, sorted.

    Yields:
        Two index arrays; all pairs of one i are in the same chunk.
    """
    first = np.searchsorted(targets, keys)
    counts = np.searchsorted(targets, keys, side="right") - first
    some = np.flatnonzero(counts)
    ends = np.cumsum(counts[some])
    start = 0
    while start < len(some):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + CHUNK, side="right")), start + 1)
        mine = some[start:stop]
        left = np.repeat(mine, counts[mine])
        within = np.arange(len(left)) - np.repeat(
            np.cumsum(counts[mine]) - counts[mine], counts[mine]
        )
        yield left, first[left] + within
        start = stop


def best_candidate(left: np.ndarray, right: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """Of each left index the row with the largest overlap; among equals the smallest right."""
    order = np.lexsort([right, -overlap, left])
    return order[np.flatnonzero(np.diff(left[order], prepend=-1))]

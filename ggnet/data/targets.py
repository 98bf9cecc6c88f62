"""Compact training targets of one image: points, radii, offsets; no heatmaps.

Coordinates are cells of the feature map. By default they are sub-pixel; with
`compat="original"` boxes are truncated to whole cells and radii follow the published formula, as
the published code does.
"""

import numpy as np

MIN_SIZE = 0.25  # cells; less of a box left inside the crop does not show
MIN_OVERLAP = 0.3  # with this, the corrected radius is close to the published one (see below)


def gaussian_radius(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(n,) int32: how far both corners of a box may move until the overlap is MIN_OVERLAP.

    The smallest solution of CornerNet's three cases (both corners move outward, both inward, one
    each), each a quadratic equation. CornerNet's published code divides its roots by 2 instead of
    2a and asks for an overlap of 0.7 (`original_radius`); solved correctly, 0.7 would give a third
    of the radii that CenterNet, PPDM and GGNet were tuned with, while 0.3 gives nearly the same.
    """
    total, area = width + height, width * height
    both_ways = _smaller_root(1, -total, area * (1 - MIN_OVERLAP) / (1 + MIN_OVERLAP))
    inward = _smaller_root(4, -2 * total, area * (1 - MIN_OVERLAP))
    outward = _larger_root(4 * MIN_OVERLAP, 2 * MIN_OVERLAP * total, area * (MIN_OVERLAP - 1))
    return np.minimum(np.minimum(both_ways, inward), outward).astype(np.int32)


def original_radius(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(n,) int32: the radius as published, overlap 0.7 and the wrong roots included.

    Its smallest solution is the one for corners that move outward, whatever the box: at most 0.14
    of width + height, where the others, of the larger roots, are at least half of it.
    """
    overlap, total, area = 0.7, width + height, width * height
    b = -2 * overlap * total
    outward = (b + np.sqrt(b**2 + 16 * overlap * area * (1 - overlap))) / 2
    return np.maximum(outward, 0).astype(np.int32)


def _smaller_root(a, b, c):
    return (-b - np.sqrt(np.maximum(b * b - 4 * a * c, 0))) / (2 * a)


def _larger_root(a, b, c):
    return (-b + np.sqrt(np.maximum(b * b - 4 * a * c, 0))) / (2 * a)


def build_targets(
    boxes: np.ndarray,
    labels: np.ndarray,
    pairs: np.ndarray,
    valid_pairs: np.ndarray,
    grid: tuple[int, int],
    compat: str = "none",
    hard_negative_radius: int = 3,
) -> dict[str, np.ndarray]:
    """The fields of `Batch` for one image, without the batch column.

    Args:
        boxes: (n, 4) in cells, not clipped to the map.
        labels: (n,) object index.
        pairs: (m, 3) human and object (indices into boxes), verb.
        valid_pairs: (V, num_objects) bool.
        grid: height and width of the feature map.
        compat: "original" for the published code's integer targets.
        hard_negative_radius: as they are drawn, in cells.

    A box that the crop cuts is clipped; one that it loses has no targets, nor have its pairs (in
    the published code they do). The interaction point is the midpoint of the two box centers.
    Hard negatives stand at the interaction point of every pair, for every other valid verb of the
    pair's object that is not annotated so near that the negative would be drawn on it (in the
    published code, at that cell).
    """
    original = compat == "original"
    height, width = grid
    if original:
        limit = np.array([width - 1, height - 1] * 2)
        boxes = np.clip(np.trunc(boxes), 0, limit)
    else:
        boxes = np.clip(boxes, 0, np.array([width, height] * 2))
    sizes = boxes[:, 2:] - boxes[:, :2]
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    cells = np.floor(centers)
    visible = (sizes > 0).all(axis=1) if original else (sizes >= MIN_SIZE).all(axis=1)
    radius = original_radius if original else gaussian_radius

    if not original:
        pairs = pairs[visible[pairs[:, 0]] & visible[pairs[:, 1]]]
    human, object_, verbs = pairs.T
    middles = cells if original else centers
    points = np.floor((middles[human] + middles[object_]) / 2)
    distance = np.abs(middles[human] - middles[object_])
    interactions = np.column_stack([verbs, points[:, ::-1]]).astype(np.int32)
    return {
        "objects": np.column_stack([labels, cells[:, ::-1]])[visible].astype(np.int32),
        "object_radii": radius(*sizes[visible].T),
        "sizes": sizes[visible].astype(np.float32),
        "centers_frac": (centers - cells)[visible].astype(np.float32),
        "interactions": interactions,
        "interaction_radii": radius(*distance.T),
        "human_offsets": (points - cells[human]).astype(np.float32),
        "object_offsets": (points - cells[object_]).astype(np.float32),
        "hard_negatives": _hard_negatives(
            interactions, valid_pairs[:, labels[object_]].T, 0 if original else hard_negative_radius
        ),
    }


def _hard_negatives(interactions: np.ndarray, valid: np.ndarray, radius: int) -> np.ndarray:
    """(L, 3) [verb, y, x]: valid verbs (`valid`: (m, V)) without an annotation in the window of
    `radius` around the cell."""
    pair, verb = np.nonzero(valid)
    candidates = np.unique(np.column_stack([verb, interactions[pair, 1:]]), axis=0)
    apart = np.abs(candidates[:, None] - interactions)  # (L, m, 3)
    near = (apart[..., 0] == 0) & (apart[..., 1:] <= radius).all(axis=2)
    return candidates[~near.any(axis=1)].astype(np.int32).reshape(-1, 3)

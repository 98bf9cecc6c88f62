"""What a file's boxes are, where they are not the corners in pixels that were expected.

Each answer needs evidence from all the boxes together: one wrong box is a wrong box.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ggnet.data.images import image_size, is_stored_lying
from ggnet.errors import UserError

SAMPLE = 50  # images whose sizes are looked up
MIN_IMPOSSIBLE = 0.2  # share of boxes that end before they begin, in a file of corners and sizes
MARGIN = 1.05  # times the image's side; annotators draw a little beyond the edge
MIN_BEYOND = 0.25  # share of images with a box beyond the margin, in a file of a larger size
MAX_REACH, MIN_IMAGES = 0.75, 20  # boxes of so many photos reach further to the right or down


def check_corners(boxes: Sequence[np.ndarray], paths: Sequence[Path | None]) -> str | None:
    """Refuse boxes that are not [x1, y1, x2, y2] in pixels of their images.

    Args:
        boxes: of each image (n, 4), as they are in the file; finite.
        paths: each image's file, None where that is not known.

    Returns:
        A doubt that is no proof: boxes of all images in their upper left part.

    Raises:
        UserError: says what they are.
    """
    everything = _joined(boxes)
    check_pixels(everything)
    sizes = _sizes(boxes, paths)
    corners, sides = everything[:, :2], everything[:, 2:]
    impossible = (sides <= corners).any(axis=1)
    if impossible.sum() > 1 and impossible.mean() >= MIN_IMPOSSIBLE and (sides > 0).all():
        fitting = [rows[:, :2] + rows[:, 2:] <= MARGIN * size for rows, size, _ in sizes]
        if all(fits.all() for fits in fitting):
            raise UserError(
                f"{impossible.sum()} of {len(everything)} boxes would end before they begin, and "
                "all are right as [x, y, width, height]; expected the corners [x1, y1, x2, y2]: "
                "write [x, y, x + width, y + height]"
            )
    unturned = [fit_unturned(rows[:, 2:], size, path) for rows, size, path in sizes]
    if sum(unturned) > 1 and np.mean(unturned) >= MIN_BEYOND:
        raise UserError(
            f"boxes of {sum(unturned)} of {len(sizes)} images fit the pixels as they are stored, "
            "lying on their side, and not the upright image that the EXIF tag makes of them; "
            "expected boxes in the upright image: turn them, or delete the tags (exiftool "
            "-Orientation= FILE)"
        )
    upright = [item[:2] for item, lies in zip(sizes, unturned, strict=True) if not lies]
    check_size([(rows[:, 2:], size) for rows, size in upright])
    if len(sizes) >= MIN_IMAGES:
        reach = max((rows[:, 2:] / size).max() for rows, size, _ in sizes)
        if reach < MAX_REACH:
            return f"no box of {len(sizes)} images reaches beyond {reach:.0%} of their sides"
    return None


def check_pixels(boxes: np.ndarray) -> None:
    """Refuse boxes (n, 4), in whatever order their numbers are, of fractions of the image.

    Raises:
        UserError: all numbers are within 0 and 1, and not all whole.
    """
    if len(boxes) and (boxes >= 0).all() and (boxes <= 1).all() and (boxes % 1 > 0).any():
        raise UserError(
            "all boxes are within 0 and 1; expected pixels: multiply x by the image's width and y "
            "by its height"
        )


def check_size(ends: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Refuse boxes that were drawn on larger images.

    Args:
        ends: of each image, its boxes' right and lower edges (n, 2) and its width and height (2,).

    Raises:
        UserError: boxes of too many images reach beyond their image.
    """
    reach = np.array([(end / size).max() for end, size in ends if len(end)])
    beyond = reach > MARGIN
    if beyond.sum() > 1 and beyond.mean() >= MIN_BEYOND:
        raise UserError(
            f"boxes of {beyond.sum()} of {len(reach)} images reach beyond their image, up to "
            f"{reach.max():.2f} times its side; expected pixels of the image file: the boxes are "
            "of another image size, scale them by the ratio of the sizes"
        )


def fit_unturned(ends: np.ndarray, size: np.ndarray, path: Path) -> bool:
    """Whether boxes were drawn on the pixels of a file that its EXIF tag turns upright.

    Args:
        ends: right and lower edges (n, 2).
        size: width and height (2,) of the upright image.
    """
    beyond = (ends > MARGIN * size).any()
    return bool(beyond and (ends <= MARGIN * size[::-1]).all() and is_stored_lying(path))


def _sizes(
    boxes: Sequence[np.ndarray], paths: Sequence[Path | None]
) -> list[tuple[np.ndarray, np.ndarray, Path]]:
    """Boxes, size and path of the first images that have boxes and a readable file."""
    found: list[tuple[np.ndarray, np.ndarray, Path]] = []
    for rows, path in zip(boxes, paths, strict=True):
        if len(found) == SAMPLE:
            break
        if len(rows) and path is not None:
            try:
                found.append((rows, np.array(image_size(path), dtype=np.float64), path))
            except UserError:
                continue  # whoever needs the image says so
    return found


def _joined(boxes: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros((0, 4)), *boxes])

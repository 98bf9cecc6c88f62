"""The pictures on the page: JPEG of at most a given side, and small ones for the gallery."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ggnet.data.images import read_image
from ggnet.errors import UserError

THUMBNAIL = 320  # longer side in pixels
QUALITY = 85
AT_ONCE = 64  # images whose pictures wait to be written


class Picture(NamedTuple):
    """One image as JPEG files; empty where it could not be read."""

    width: int  # of the original
    height: int
    full: bytes
    thumbnail: bytes  # empty: the full one is small enough


def make_pictures(
    paths: Sequence[Path], side: int, thumbnails: bool, progress: Callable[[int, int], None]
) -> Iterator[Picture]:
    """Decode and reduce images in threads, in order.

    Images that cannot be read become empty pictures of no size, and a warning in the end.

    Args:
        side: longest side of a picture in pixels; nothing is enlarged.
        thumbnails: make those, too.

    Raises:
        UserError: none of the images can be read.
    """
    problems: list[UserError] = []

    def picture(path: Path) -> Picture:
        try:
            image = read_image(path)
        except UserError as error:
            problems.append(error)
            return Picture(0, 0, b"", b"")
        height, width = image.shape[:2]
        full = _reduced(image, side)
        small = b""
        if thumbnails and max(full.shape) > THUMBNAIL:
            small = _jpeg(_reduced(full, THUMBNAIL))
        return Picture(width, height, _jpeg(full), small)

    with ThreadPoolExecutor(min(len(os.sched_getaffinity(0)), 8)) as threads:
        for start in range(0, len(paths), AT_ONCE):
            yield from threads.map(picture, paths[start : start + AT_ONCE])
            progress(min(start + AT_ONCE, len(paths)), len(paths))
    if len(problems) == len(paths):
        raise UserError(f"none of the {len(paths)} images can be read; the first: {problems[0]}")
    if problems:
        logging.getLogger("ggnet").warning(
            f"{len(problems)} of {len(paths)} images are not in the page, the first: {problems[0]}"
        )


def _reduced(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _jpeg(image: np.ndarray) -> bytes:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()

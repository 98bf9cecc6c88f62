"""Colors, fonts and files shared by pictures and plots."""

from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageFont

from ggnet.errors import UserError
from ggnet.io import atomic_write

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # of pictures
Color = tuple[int, int, int]

# The pairs' colors are far from the human's blue and the object's orange.
HUMAN = (64, 156, 255)
OBJECT = (255, 159, 28)
PAIRS = ((255, 59, 128), (124, 222, 60), (186, 120, 255), (255, 225, 60), (60, 220, 220))
RIGHT = (96, 220, 120)
WRONG = (255, 110, 110)
INK = (28, 30, 36)
PAPER = (255, 255, 255)
MUTED = (120, 124, 132)
WEIGHTS = colormaps["viridis"]  # without the reds of an interaction point


def weight_color(weight: float) -> tuple[int, int, int]:
    """RGB of a weight in [0, 1]."""
    return tuple(int(round(255 * channel)) for channel in WEIGHTS(float(weight))[:3])


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans, which covers Latin, Greek and Cyrillic."""
    import matplotlib

    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size
    )


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write a uint8 RGB picture in the format that the suffix names, atomically.

    Raises:
        UserError: another format than FORMATS, or the file cannot be written.
    """
    format_ = FORMATS.get(Path(path).suffix.lower())
    if format_ is None:
        raise UserError(f"cannot write {path}: expected a name that ends in {', '.join(FORMATS)}")
    # PNG's level 3 takes half the time of 6.
    settings = {"compress_level": 3} if format_ == "PNG" else {"quality": 92}
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, format_, **settings)

"""Colors, fonts and files shared by pictures and plots."""

from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ggnet.errors import UserError
from ggnet.io import atomic_write
from ggnet.viz import fonts

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}  # of pictures
PLOTS = (".png", ".pdf", ".svg", ".jpg")
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
GROUPS = {  # of HOIs, the same in every plot
    "": "black",
    "rare": "tab:orange",
    "non-rare": "tab:blue",
    "known object": "tab:gray",
    "seen": "tab:green",
    "unseen": "tab:red",
}
WEIGHTS = colormaps["viridis"]  # without the reds of an interaction point


def weight_color(weight: float) -> tuple[int, int, int]:
    """RGB of a weight in [0, 1]."""
    return tuple(int(round(255 * channel)) for channel in WEIGHTS(float(weight))[:3])


@cache
def font(size: int, path: Path | None = None) -> ImageFont.FreeTypeFont:
    """Matplotlib's DejaVu Sans, which covers Latin, Greek, Cyrillic and some more; or another."""
    return ImageFont.truetype(path or fonts.DEJAVU, size)


def text_length(text: str, size: int) -> float:
    """Width of a text in pixels, whatever its script."""
    return sum(font(size, path).getlength(part) for part, path in fonts.runs(text))


def draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, color: Color, size: int
) -> float:
    """Write a text of any script on one base line, its top left at `at`; returns where it ends."""
    x, y = at
    base = y + font(size).getmetrics()[0]
    for part, path in fonts.runs(text):
        draw.text((x, base), part, fill=color, font=font(size, path), anchor="ls")
        x += font(size, path).getlength(part)
    return x


def families(text: str) -> list[str]:
    """Font families for matplotlib that cover the text together."""
    return ["DejaVu Sans", *fonts.families(text)]


def save_figure(path: str | Path, figure: Figure) -> None:
    """Write a plot in the format that the suffix names, atomically.

    Raises:
        UserError: another format than PLOTS, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in PLOTS:
        raise UserError(f"cannot write {path}: expected a name that ends in {', '.join(PLOTS)}")
    with atomic_write(path) as file:
        figure.savefig(file, format=suffix[1:])


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

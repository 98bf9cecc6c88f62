"""A picture to draw on in the coordinates of the image under it, with smooth edges."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ggnet.viz import style

Color = style.Color
TextLine = Sequence[tuple[str, Color]]  # pieces of different color

_SHIFT = 4  # OpenCV takes coordinates in 1/16 pixel
_SMALLEST_SIDE = 512  # images are enlarged by whole factors until their longer side has this
_CHIP = (18, 20, 26)
_CHIP_OPACITY = 0.88
_HALO_OPACITY = 0.55
_WHITE = (255, 255, 255)


class Chip(NamedTuple):
    """A small text box that belongs to a point of the image."""

    lines: Sequence[TextLine]
    anchor: Sequence[float]
    stripe: Color


class Canvas:
    """An image, enlarged by a whole factor where it is too small to carry text.

    Coordinates are pixel edges of the original image; a point on pixel (x, y) is x + 0.5, y + 0.5.
    """

    def __init__(self, image: np.ndarray):
        height, width = image.shape[:2]
        self.scale = max(1, math.ceil(_SMALLEST_SIDE / max(height, width)))
        self.pixels = image.copy()
        if self.scale > 1:
            size = (width * self.scale, height * self.scale)
            self.pixels = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        longer = max(self.pixels.shape[:2])
        self.unit = max(1.0, longer / 640)  # of line widths and gaps
        self.size = round(min(max(longer / 42, 19), 44))  # of the font

    def dim(self, amount: float = 0.4) -> None:
        """Fade to a dark grey so that what is drawn next stands out."""
        grey = cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)[..., None]
        mixed = 0.75 * grey + 0.25 * self.pixels
        self.pixels = np.ascontiguousarray((mixed * (1 - amount)).astype(np.uint8))

    def outline(self, shapes: Iterable[tuple[Sequence, Color]], width: float) -> None:
        """Polylines (n, 2) or boxes (4,) in their colors, over a common dark halo."""
        width = max(1, round(width * self.unit))
        drawn = [(self._fixed(_corners(shape)), color, len(shape) == 4) for shape, color in shapes]
        halo = self.pixels.copy()
        for points, _, closed in drawn:
            thickness = width + 2 * max(1, round(self.unit))
            cv2.polylines(halo, [points], closed, (0, 0, 0), thickness, cv2.LINE_AA, _SHIFT)
        self.pixels = cv2.addWeighted(halo, _HALO_OPACITY, self.pixels, 1 - _HALO_OPACITY, 0)
        for points, color, closed in drawn:
            cv2.polylines(self.pixels, [points], closed, color, width, cv2.LINE_AA, _SHIFT)

    def disc(self, center: Sequence[float], radius: float, fill: Color, edge: Color) -> None:
        """A filled circle of `radius` units with an edge of one unit."""
        point = tuple(self._fixed(center).tolist())
        for size, color in ((radius + 1, edge), (radius, fill)):
            size = round(size * self.unit * 2**_SHIFT)
            cv2.circle(self.pixels, point, size, color, -1, cv2.LINE_AA, _SHIFT)

    def target(self, center: Sequence[float], color: Color) -> None:
        """An interaction point: a ring with a white heart, unlike every other mark."""
        self.disc(center, 6.5, color, _WHITE)
        self.disc(center, 1.6, _WHITE, _WHITE)

    def listing(self, chips: Sequence[Chip], boxes: np.ndarray, marks: np.ndarray) -> None:
        """As `chips`, of numbers alone; the texts are listed below the picture, in columns."""
        pad, line = self._padding()
        numbers = [[(str(number), _WHITE)] for number in range(1, len(chips) + 1)]
        short = [chip._replace(lines=[number]) for chip, number in zip(chips, numbers, strict=True)]
        self.chips(short, boxes, marks)
        blocks = [
            [[*number, ("  ", _WHITE), *chip.lines[0]], *chip.lines[1:]]
            for chip, number in zip(chips, numbers, strict=True)
        ]
        width = max(self._chip_size(lines)[0] for lines in blocks) + pad
        full = self.pixels.shape[1]
        columns = max(1, int(full / width))
        heights = [0.0] * columns
        places = []
        for lines in blocks:
            column = int(np.argmin(heights))
            places.append((column * full / columns + pad / 2, heights[column] + pad / 2))
            heights[column] += len(lines) * line + 1.5 * pad
        below = np.full((round(max(heights) + pad / 2), full, 3), style.PAPER, np.uint8)
        top = self.pixels.shape[0]
        self.pixels = np.concatenate([self.pixels, below])
        for lines, (x, y), chip in zip(blocks, places, chips, strict=True):
            corner = np.array([x, top + y])
            size = np.array(self._chip_size(lines))
            self._draw_chip(lines, np.concatenate([corner, corner + size]), chip.stripe)

    def chips(self, chips: Sequence[Chip], boxes: np.ndarray, marks: np.ndarray) -> np.ndarray:
        """Place text boxes where they hide least and draw them, with leaders where they stand off.

        Args:
            boxes: (n, 4) boxes of humans and objects: better not to cover much of them.
            marks: (n, 2) points of links and centers: better not to cover any.

        Returns:
            (len(chips), 4) where they stand.
        """
        placed: list[np.ndarray] = []
        for chip in chips:
            anchor = np.asarray(chip.anchor) * self.scale
            size = self._chip_size(chip.lines)
            placed.append(self._place(size, anchor, boxes * self.scale, marks * self.scale, placed))
            end = anchor.clip(placed[-1][:2], placed[-1][2:])
            if np.hypot(*(end - anchor)) > 3 * self.unit:
                leader = np.stack([end, anchor]) / self.scale
                self.outline([(leader, chip.stripe)], 1)
        for chip, box in zip(chips, placed, strict=True):
            self._draw_chip(chip.lines, box, chip.stripe)
        return np.stack(placed) / self.scale

    def note(self, lines: Sequence[TextLine], stripe: Color) -> None:
        """A text box in the upper left corner."""
        width, height = self._chip_size(lines)
        gap = 4 * self.unit
        self._draw_chip(lines, np.array([gap, gap, gap + width, gap + height]), stripe)

    def _chip_size(self, lines: Sequence[TextLine]) -> tuple[float, float]:
        pad, height = self._padding()
        width = max(
            style.text_length("".join(text for text, _ in line), self.size) for line in lines
        )
        return width + 3 * pad, len(lines) * height + pad

    def _padding(self) -> tuple[float, float]:
        ascent, descent = style.font(self.size).getmetrics()
        return self.size * 0.4, float(ascent + descent)

    def _place(
        self,
        size: tuple[float, float],
        at: np.ndarray,
        avoid: np.ndarray,
        marks: np.ndarray,
        placed: list[np.ndarray],
    ) -> np.ndarray:
        """The chip position of lowest cost on rings around the anchor."""
        height, width = self.pixels.shape[:2]
        room = np.array([width, height]) - size - 2 * self.unit
        step = self.size
        angles = np.arange(0, 360, 15) * np.pi / 180
        rings = np.arange(1, 14) * step
        half = np.asarray(size) / 2
        directions = np.column_stack([np.cos(angles), np.sin(angles)])
        # On each ring the chip's nearest side, not its middle, is that far from the anchor.
        reach = np.abs(directions) @ half
        centers = at + (directions * (rings[:, None] + reach)[..., None]).reshape(-1, 2)
        corners = (centers - half).clip(2 * self.unit, np.maximum(room, 2 * self.unit))
        boxes = np.concatenate([corners, corners + size], axis=1)
        distance = np.hypot(*(at - at.clip(boxes[:, :2], boxes[:, 2:])).T)
        cost = distance / step
        area = size[0] * size[1]
        if len(avoid):
            smaller = np.minimum(area, _area(avoid))
            cost = cost + 4 * (_intersection(boxes, avoid) / smaller).sum(axis=1)
        margin = np.array([-1, -1, 1, 1]) * 5 * self.unit
        covered = ((boxes + margin)[:, None, :2] < marks) & (marks < (boxes + margin)[:, None, 2:])
        cost = cost + covered.all(axis=2).sum(axis=1)
        if placed:
            taken = np.stack(placed) + margin / 2
            cost = cost + 1000 * (_intersection(boxes, taken) / area).sum(axis=1)
        return boxes[cost.argmin()]

    def _draw_chip(self, lines: Sequence[TextLine], box: np.ndarray, stripe: Color) -> None:
        pad, line_height = self._padding()
        picture = Image.fromarray(self.pixels)
        size = tuple(np.ceil(box[2:] - box[:2]).astype(int).tolist())
        left, top = np.round(box[:2]).astype(int).tolist()
        mask = _rounded(size, pad)
        faint = mask.point(lambda value: round(value * _CHIP_OPACITY))
        picture.paste(_CHIP, (left, top), faint)
        bar = Image.new("L", size)
        bar.paste(mask.crop((0, 0, round(pad * 0.6), size[1])))
        picture.paste(stripe, (left, top), bar)
        draw = ImageDraw.Draw(picture)
        for number, line in enumerate(lines):
            x, y = left + 1.6 * pad, top + pad / 2 + number * line_height
            for text, color in line:
                x = style.draw_text(draw, (x, y), text, color, self.size)
        self.pixels = np.array(picture)

    def _fixed(self, points: Sequence) -> np.ndarray:
        """Original coordinates to OpenCV's fixed-point ones, where pixel centers are whole."""
        return np.round((np.asarray(points) * self.scale - 0.5) * 2**_SHIFT).astype(np.int32)


def _corners(shape: Sequence) -> np.ndarray:
    shape = np.asarray(shape, dtype=np.float64)
    if shape.ndim == 2:
        return shape
    x1, y1, x2, y2 = shape
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _rounded(size: tuple[int, int], radius: float) -> Image.Image:
    """A mask of a rounded rectangle with smooth corners."""
    fine = Image.new("L", (size[0] * 4, size[1] * 4))
    box = (0, 0, fine.width - 1, fine.height - 1)
    ImageDraw.Draw(fine).rounded_rectangle(box, radius * 4, fill=255)
    return fine.resize(size, Image.Resampling.BOX)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), 1)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) common areas."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clip(0).prod(axis=2)

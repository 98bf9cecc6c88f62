"""Flat colored shapes: what figures, objects and their marks are made of."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

Color = tuple[int, int, int]
INK: Color = (38, 36, 52)
OUTLINE = 0.45  # width of the line around every shape, in pixels
_SHIFT = 4  # fractional bits of the coordinates that OpenCV gets


class Shape(NamedTuple):
    """A filled polygon (width 0) or a line with round ends (one point: a disc), outlined in INK."""

    points: Sequence  # n times [x, y], or n complex numbers x + y j; y downwards
    color: Color
    width: float = 0.0
    outlined: bool = True


def polygon(points: Sequence, color: Color, outlined: bool = True) -> Shape:
    return Shape(points, color, 0.0, outlined)


def stroke(points: Sequence, color: Color, width: float, outlined: bool = True) -> Shape:
    return Shape(points, color, width, outlined)


def disc(center: Sequence, radius: float, color: Color, outlined: bool = True) -> Shape:
    return Shape([center], color, 2 * radius, outlined)


def arc(
    center: Sequence, radii: Sequence, start: float, stop: float, count: int = 16
) -> np.ndarray:
    """(count, 2) points of an ellipse's arc; degrees, 0 = right, 90 = down."""
    angles = np.radians(np.linspace(start, stop, count))
    return np.asarray(center) + np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)


def rotate(shapes: Iterable[Shape], degrees: float) -> list[Shape]:
    """Turn about [0, 0], clockwise in the picture."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.array([[cos, sin], [-sin, cos]])
    return [shape._replace(points=np.asarray(shape.points) @ matrix) for shape in shapes]


def shade(color: Color, factor: float) -> Color:
    """A darker (factor < 1) or lighter version of the color."""
    return tuple(int(min(255, channel * factor)) for channel in color)


class Drawing:
    """Shapes from back to front, all their points in one array, so that moving them is cheap."""

    def __init__(self, shapes: Sequence[Shape]):
        lengths = [len(shape.points) for shape in shapes]
        points = np.array([point for shape in shapes for point in shape.points])
        if np.iscomplexobj(points):
            points = points.view(float).reshape(-1, 2)
        self._shapes, self._points, self._ends = shapes, points, np.cumsum(lengths)[:-1]
        self._radii = np.repeat([shape.width / 2 for shape in shapes], lengths)
        self._outlines = np.repeat([OUTLINE * shape.outlined for shape in shapes], lengths)
        self._scale = 1.0

    def bounds(self) -> np.ndarray:
        """[x1, y1, x2, y2] of everything drawn, outlines included."""
        reach = (self._radii * self._scale + self._outlines)[:, None]
        return np.concatenate([(self._points - reach).min(0), (self._points + reach).max(0)])

    def transform(self, *, scale: float = 1.0, mirror: bool = False, shift=(0, 0)) -> "Drawing":
        """Scale (line widths too, outlines not), mirror left to right, then shift."""
        new = object.__new__(Drawing)
        vars(new).update(vars(self))
        new._points = self._points * (-scale if mirror else scale, scale) + shift
        new._scale = self._scale * scale
        return new

    def draw(self, canvas: np.ndarray, scale: float) -> None:
        """Draw onto an RGB image that has `scale` pixels per unit."""
        fixed = np.rint((self._points * scale - 0.5) * (1 << _SHIFT)).astype(np.int32)
        for shape, points in zip(self._shapes, np.split(fixed, self._ends), strict=True):
            width = shape.width * self._scale
            if shape.outlined:
                _paint(canvas, points, not shape.width, width + 2 * OUTLINE, INK, scale)
            _paint(canvas, points, not shape.width, width, shape.color, scale)


def _paint(canvas, points, filled: bool, width: float, color: Color, scale: float) -> None:
    if filled:
        cv2.fillPoly(canvas, [points], color, cv2.LINE_8, _SHIFT)
    if width == 0:
        return
    if len(points) == 1:
        radius = round(width / 2 * scale * (1 << _SHIFT))
        cv2.circle(canvas, points[0].tolist(), radius, color, -1, cv2.LINE_8, _SHIFT)
    else:
        thickness = max(1, round(width * scale))
        cv2.polylines(canvas, [points], filled, color, thickness, cv2.LINE_8, _SHIFT)

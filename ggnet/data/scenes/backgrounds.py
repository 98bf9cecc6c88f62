"""Backgrounds: a far part (sky, sea, wall) over the ground, softly textured. They mean nothing."""

import cv2
import numpy as np

from ggnet.data.scenes.shapes import arc

# (far top, far bottom, ground top, ground bottom, texture)
_SETTINGS = (
    ((148, 200, 236), (214, 234, 244), (146, 190, 112), (104, 158, 84), "meadow"),
    ((120, 190, 214), (170, 222, 226), (240, 222, 178), (222, 194, 142), "beach"),
    ((206, 196, 214), (190, 178, 200), (206, 160, 112), (176, 128, 84), "planks"),
    ((232, 214, 190), (220, 198, 172), (176, 182, 192), (148, 154, 168), "tiles"),
    ((176, 200, 226), (220, 230, 240), (240, 244, 250), (214, 224, 238), "snow"),
    ((250, 206, 166), (246, 226, 196), (170, 164, 120), (134, 138, 98), "meadow"),
    ((170, 196, 190), (190, 210, 202), (132, 160, 168), (106, 134, 148), "court"),
)


def background(size: int, rng: np.random.Generator) -> np.ndarray:
    """(size, size, 3) uint8 RGB."""
    *colors, texture = _SETTINGS[rng.integers(len(_SETTINGS))]
    far_top, far_bottom, top, bottom = (np.array(color, dtype=np.float32) for color in colors)
    tint = rng.uniform(0.93, 1.06, 3).astype(np.float32)
    horizon = int(size * rng.uniform(0.1, 0.3))
    y = np.arange(size, dtype=np.float32)
    far = np.clip(y / horizon, 0, 1)[:, None]
    near = np.clip((y - horizon) / (size - horizon), 0, 1)[:, None]
    rows = np.where(
        (y < horizon)[:, None], far_top + (far_bottom - far_top) * far, top + (bottom - top) * near
    )
    image = np.repeat((rows * tint)[:, None], size, 1)
    clouds = cv2.resize(
        rng.uniform(-7, 7, (6, 6)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    image = np.clip(image + clouds[:, :, None], 0, 255).astype(np.uint8)
    _TEXTURES[texture](image, horizon, (top * tint * 0.9).tolist(), rng)
    return image


def _meadow(image: np.ndarray, horizon: int, color: list[float], rng) -> None:
    size = len(image)
    hills = np.stack([np.linspace(0, size, 9), horizon - size * 0.05 * rng.random(9)], 1)
    outline = np.concatenate([hills, [[size, horizon], [0, horizon]]])
    _polygon(image, outline, [channel * 0.95 for channel in color])
    for x, y in _scatter(size, horizon, 26, rng):
        blade = size * 0.012
        _line(image, [(x - blade, y - blade), (x, y), (x + blade, y - blade)], color)


def _beach(image: np.ndarray, horizon: int, color: list[float], rng) -> None:
    size = len(image)
    for _ in range(3):
        x, y = rng.uniform(0, size), rng.uniform(0.3, 0.9) * horizon
        _line(image, [(x, y), (x + size * 0.12, y)], [236, 246, 246])
    for x, y in _scatter(size, horizon, 30, rng):
        _line(image, [(x, y), (x + size * 0.006, y)], color)


def _planks(image: np.ndarray, horizon: int, color: list[float], rng) -> None:
    size = len(image)
    vanishing = np.array([rng.uniform(0.3, 0.7) * size, horizon - size * 0.7])
    for x in np.linspace(-size, 2 * size, 25):
        end = np.array([x, size])
        start = vanishing + (end - vanishing) * (horizon - vanishing[1]) / (size - vanishing[1])
        _line(image, [start, end], color)
    _line(image, [(0, horizon), (size, horizon)], [250, 246, 240], 2)


def _tiles(image: np.ndarray, horizon: int, color: list[float], rng) -> None:
    _planks(image, horizon, color, rng)
    size = len(image)
    for depth in np.linspace(0.08, 1, 7):
        y = horizon + (size - horizon) * depth**1.5
        _line(image, [(0, y), (size, y)], color)


def _snow(image: np.ndarray, horizon: int, color: list[float], rng) -> None:
    size = len(image)
    for _ in range(5):
        x, y = rng.uniform(0, size), rng.uniform(horizon + 4, size)
        ridge = arc((x, y), (size * rng.uniform(0.1, 0.25), size * 0.03), 200, 340)
        _line(image, ridge, color)


def _court(image: np.ndarray, horizon: int, color: list[float], rng) -> None:
    size = len(image)
    center = (rng.uniform(0.3, 0.7) * size, rng.uniform(0.55, 0.75) * size)
    radius = rng.uniform(0.2, 0.3) * size
    white = [min(255.0, channel * 1.35) for channel in color]
    _line(image, arc(center, (radius, radius * 0.5), 0, 360, 40), white, 2)
    _line(image, [(0, center[1]), (size, center[1])], white, 2)


_TEXTURES = {
    "meadow": _meadow,
    "beach": _beach,
    "planks": _planks,
    "tiles": _tiles,
    "snow": _snow,
    "court": _court,
}


def _scatter(size: int, horizon: int, count: int, rng) -> np.ndarray:
    return rng.uniform((0, horizon + 3), (size, size), (count, 2))


def _line(image: np.ndarray, points, color, width: int = 1) -> None:
    fixed = np.rint(np.asarray(points) * 16).astype(np.int32)
    cv2.polylines(image, [fixed], False, color, width, cv2.LINE_AA, 4)


def _polygon(image: np.ndarray, points, color) -> None:
    cv2.fillPoly(image, [np.rint(np.asarray(points) * 16).astype(np.int32)], color, cv2.LINE_AA, 4)

"""Objects and their states, drawn about [0, 0], the far end (away from the person) to the right.

Every drawing is about one unit wide; `thing` scales it to pixels.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from ggnet.data.scenes.recipe import CHANGED
from ggnet.data.scenes.shapes import (
    Color,
    Drawing,
    Shape,
    arc,
    disc,
    polygon,
    rotate,
    shade,
    stroke,
)

# longest side in pixels of a 128-pixel picture
SIZES = {
    "ball": (14, 18),
    "bicycle": (26, 33),
    "umbrella": (24, 31),
    "dog": (21, 28),
    "book": (17, 23),
    "laptop": (19, 25),
    "cup": (15, 19),
    "suitcase": (18, 25),
}
PAINTS = (
    (232, 82, 72),
    (244, 166, 60),
    (112, 190, 92),
    (52, 164, 176),
    (82, 122, 214),
    (158, 96, 196),
    (232, 118, 166),
)
WHITE, STEEL, BLACK = (250, 250, 246), (176, 184, 196), (54, 54, 66)


def thing(name: str, state: str, size: float, rng: np.random.Generator) -> Drawing:
    """The object, its longest side `size` pixels, the center of its box at [0, 0]."""
    drawing = _unit_drawing(name, state == CHANGED, int(rng.integers(len(PAINTS))))
    for _ in range(2):  # outlines do not scale, so the first try is a little off
        box = drawing.bounds()
        drawing = drawing.transform(scale=size / (box[2:] - box[:2]).max())
    box = drawing.bounds()
    return drawing.transform(shift=-(box[:2] + box[2:]) / 2)


def speed_lines(half_size: np.ndarray, direction: np.ndarray) -> Drawing:
    """Three strokes behind a moving object, at its far end, outside its box."""
    side = np.array([-direction[1], direction[0]])
    edge = np.min(half_size / np.maximum(np.abs(direction), 1e-6))  # from center to the box's edge
    start = min(edge, float(half_size.max())) + 2.0
    return Drawing(
        [
            stroke(
                [direction * start + side * across, direction * (start + length) + side * across],
                WHITE,
                1.5,
            )
            for across, length in ((-4.5, 5.0), (0.0, 8.0), (4.5, 5.0))
        ]
    )


@cache
def _unit_drawing(name: str, changed: bool, variant: int) -> Drawing:
    drawing = Drawing(_DRAW[name](changed, PAINTS[variant], variant))
    return drawing.transform(scale=20.0)  # outlines are in pixels


def _ball(flat: bool, paint: Color, variant: int) -> list[Shape]:
    if flat:
        outline = np.concatenate(
            [arc((0, 0), (0.6, 0.26), -10, 190), arc((0, -0.1), (0.42, 0.07), 190, 350)]
        )
        return [
            polygon(outline, paint),
            stroke(arc((0.0, 0.02), (0.46, 0.13), 20, 160), WHITE, 0.09, outlined=False),
            stroke([(0.18, -0.06), (0.36, -0.02)], shade(paint, 0.6), 0.06, outlined=False),
        ]
    return [
        disc((0, 0), 0.5, paint),
        polygon(arc((0, 0), (0.13, 0.5), 0, 360, 24), WHITE, outlined=False),
        stroke(arc((0, 0), (0.5, 0.12), 10, 170), WHITE, 0.08, outlined=False),
    ]


def _book(open_: bool, paint: Color, variant: int) -> list[Shape]:
    if open_:
        near = [(0, -0.2), (-0.6, -0.36), (-0.6, 0.24), (0, 0.4)]
        far = [(0, -0.2), (0.6, -0.36), (0.6, 0.24), (0, 0.4)]
        lines = [
            stroke([(s * 0.12, y + 0.01), (s * 0.48, y - 0.09)], (150, 150, 160), 0.05, False)
            for s in (-1, 1)
            for y in (-0.08, 0.06, 0.2)
        ]
        back = [(0, -0.14), (0.66, -0.3), (0.66, 0.32), (0, 0.48), (-0.66, 0.32), (-0.66, -0.3)]
        return [polygon(back, paint), polygon(near, WHITE), polygon(far, WHITE), *lines]
    return [
        polygon([(-0.4, -0.5), (0.4, -0.5), (0.4, 0.5), (-0.4, 0.5)], paint),
        polygon([(-0.4, 0.38), (0.4, 0.38), (0.4, 0.5), (-0.4, 0.5)], WHITE),
        polygon([(-0.4, -0.5), (-0.24, -0.5), (-0.24, 0.5), (-0.4, 0.5)], shade(paint, 0.7)),
        stroke([(-0.08, -0.22), (0.24, -0.22)], WHITE, 0.1, outlined=False),
    ]


def _umbrella(open_: bool, paint: Color, variant: int) -> list[Shape]:
    handle = stroke(
        np.concatenate([[(0, -0.5), (0, 0.34)], arc((-0.08, 0.36), (0.08, 0.1), 0, 170, 8)]),
        (122, 84, 56),
        0.06,
    )
    if not open_:
        furled = polygon(
            [(0.0, -0.5), (0.1, -0.12), (0.06, 0.12), (-0.06, 0.12), (-0.1, -0.12)], paint
        )
        band = stroke([(-0.07, 0.0), (0.07, 0.0)], WHITE, 0.05, outlined=False)
        return rotate([handle, furled, band], 32)
    dome = arc((0, -0.04), (0.56, 0.46), 180, 360, 24)
    scallops = [arc((x, -0.04), (0.14, 0.09), 0, -180, 8) for x in (0.42, 0.14, -0.14, -0.42)]
    segments = [
        polygon(
            np.concatenate(
                [
                    arc((0, -0.04), (0.14, 0.45), 180, 360, 16),
                    arc((0, -0.04), (0.14, 0.09), 0, -180, 8),
                ]
            ),
            WHITE,
            outlined=False,
        )
    ]
    return rotate([handle, polygon(np.concatenate([dome, *scallops]), paint), *segments], 14)


def _bicycle(fallen: bool, paint: Color, variant: int) -> list[Shape]:
    def ring(x: float) -> list[Shape]:
        return [
            stroke(arc((x, 0.12), (0.22, 0.22), 0, 360, 24), BLACK, 0.05, outlined=False),
            disc((x, 0.12), 0.04, BLACK, outlined=False),
        ]

    def tube(*points) -> Shape:
        return stroke(points, paint, 0.055)

    shapes = [
        *ring(-0.3),
        *ring(0.3),
        tube((-0.3, 0.12), (-0.14, -0.16), (0.2, -0.18), (-0.02, 0.12), (-0.3, 0.12)),
        tube((-0.02, 0.12), (-0.16, -0.24)),
        tube((0.3, 0.12), (0.18, -0.3)),
        stroke([(-0.24, -0.26), (-0.08, -0.26)], BLACK, 0.08),
        stroke([(0.1, -0.34), (0.18, -0.3), (0.28, -0.32)], BLACK, 0.06),
    ]
    return rotate(shapes, -42) if fallen else shapes


def _dog(sitting: bool, paint: Color, variant: int) -> list[Shape]:
    coats = ((150, 98, 58), (222, 178, 112), (92, 84, 84), (236, 226, 210), (186, 120, 66))
    coat = coats[variant % len(coats)]
    dark = shade(coat, 0.72)

    def head(x: float, y: float) -> list[Shape]:
        return [
            stroke([(x, y), (x + 0.16, y + 0.05)], coat, 0.17),
            disc((x, y), 0.15, coat),
            stroke([(x - 0.08, y - 0.06), (x - 0.12, y + 0.1)], dark, 0.1),
            disc((x + 0.23, y + 0.02), 0.045, BLACK, outlined=False),
            disc((x + 0.05, y - 0.05), 0.03, BLACK, outlined=False),
        ]

    if sitting:
        return [
            stroke([(-0.26, 0.4), (-0.46, 0.3)], coat, 0.09),
            stroke([(0.16, 0.0), (0.2, 0.42)], dark, 0.1),
            stroke([(-0.14, 0.26), (0.1, -0.16)], coat, 0.32),
            disc((-0.14, 0.26), 0.19, coat),
            stroke([(-0.1, 0.42), (0.06, 0.42)], coat, 0.1),
            stroke([(0.12, 0.0), (0.14, 0.42)], coat, 0.1),
            stroke([(0.04, -0.2), (0.2, -0.13)], paint, 0.09, outlined=False),
            *head(0.14, -0.36),
        ]
    return [
        stroke([(-0.34, -0.08), (-0.5, -0.26)], coat, 0.09),
        stroke([(-0.24, 0.08), (-0.2, 0.36)], dark, 0.1),
        stroke([(0.26, 0.08), (0.22, 0.36)], dark, 0.1),
        stroke([(-0.28, 0.0), (0.24, 0.0)], coat, 0.27),
        stroke([(-0.32, 0.08), (-0.34, 0.36)], coat, 0.1),
        stroke([(0.2, 0.08), (0.32, 0.36)], coat, 0.1),
        stroke([(0.22, -0.14), (0.32, -0.02)], paint, 0.08, outlined=False),
        *head(0.36, -0.2),
    ]


def _laptop(open_: bool, paint: Color, variant: int) -> list[Shape]:
    deck = [(-0.56, 0.12), (0.28, 0.12), (0.5, 0.36), (-0.44, 0.36)]
    if not open_:
        lid = [(-0.5, -0.14), (0.36, -0.14), (0.54, 0.16), (-0.42, 0.16)]
        rim = [(-0.42, 0.16), (0.54, 0.16), (0.54, 0.25), (-0.42, 0.25)]
        mark = disc((0.0, 0.01), 0.07, WHITE, outlined=False)
        return [polygon(rim, BLACK), polygon(lid, STEEL), mark]
    screen = [(-0.3, -0.46), (0.56, -0.46), (0.46, 0.16), (-0.44, 0.16)]
    glow = [(-0.22, -0.38), (0.47, -0.38), (0.39, 0.08), (-0.35, 0.08)]
    keys = [(-0.38, 0.18), (0.24, 0.18), (0.34, 0.28), (-0.32, 0.28)]
    return [
        polygon(deck, STEEL),
        polygon(keys, BLACK, outlined=False),
        polygon(screen, BLACK),
        polygon(glow, (120, 226, 255), outlined=False),
        stroke([(-0.16, -0.22), (0.12, -0.22)], WHITE, 0.08, outlined=False),
        stroke([(-0.2, -0.06), (0.26, -0.06)], paint, 0.08, outlined=False),
    ]


def _cup(spilt: bool, paint: Color, variant: int) -> list[Shape]:
    coffee = (104, 62, 34)
    body = polygon([(-0.3, -0.42), (0.4, -0.42), (0.3, 0.42), (-0.2, 0.42)], paint)
    handle = stroke(arc((-0.27, -0.04), (0.2, 0.2), 90, 270, 12), paint, 0.1)
    band = polygon(
        [(-0.27, -0.14), (0.37, -0.14), (0.34, 0.1), (-0.24, 0.1)], WHITE, outlined=False
    )
    rim = polygon(arc((0.05, -0.42), (0.35, 0.1), 0, 360, 20), coffee)
    if not spilt:
        return [handle, body, band, rim]
    # on its side, the mouth to the far end
    cup = [
        shape._replace(
            points=np.asarray(shape.points) * 0.78 + (-0.2, 0.0), width=shape.width * 0.78
        )
        for shape in rotate([handle, body, band, rim], 80)
    ]
    puddle = np.concatenate(
        [arc((0.34, 0.24), (0.34, 0.12), -90, 90, 12), arc((0.12, 0.26), (0.26, 0.1), 90, 270, 12)]
    )
    return [polygon(puddle, coffee), *cup]


def _suitcase(open_: bool, paint: Color, variant: int) -> list[Shape]:
    if open_:
        lid = [(-0.36, -0.14), (-0.2, -0.6), (0.62, -0.6), (0.5, -0.14)]
        lining = [(-0.26, -0.18), (-0.14, -0.52), (0.52, -0.52), (0.42, -0.18)]
        box = [(-0.5, 0.02), (0.5, 0.02), (0.5, 0.42), (-0.5, 0.42)]
        mouth = [(-0.5, 0.02), (-0.36, -0.16), (0.5, -0.16), (0.5, 0.02)]
        return [
            polygon(lid, paint),
            polygon(lining, (250, 232, 200), outlined=False),
            polygon(mouth, (250, 232, 200)),
            disc((-0.14, -0.02), 0.12, (232, 82, 72)),
            disc((0.12, -0.04), 0.13, WHITE),
            disc((0.36, -0.02), 0.1, (82, 122, 214)),
            polygon(box, shade(paint, 0.85)),
            stroke([(-0.1, 0.2), (0.1, 0.2)], BLACK, 0.08, outlined=False),
        ]
    return [
        stroke([(-0.16, -0.36), (-0.14, -0.52), (0.14, -0.52), (0.16, -0.36)], BLACK, 0.08),
        polygon([(-0.5, -0.36), (0.5, -0.36), (0.5, 0.4), (-0.5, 0.4)], paint),
        stroke([(-0.28, -0.34), (-0.28, 0.38)], shade(paint, 0.62), 0.09, outlined=False),
        stroke([(0.28, -0.34), (0.28, 0.38)], shade(paint, 0.62), 0.09, outlined=False),
        disc((-0.34, 0.45), 0.06, BLACK),
        disc((0.34, 0.45), 0.06, BLACK),
    ]


_DRAW: dict[str, Callable[[bool, Color, int], list[Shape]]] = {
    "ball": _ball,
    "bicycle": _bicycle,
    "umbrella": _umbrella,
    "dog": _dog,
    "book": _book,
    "laptop": _laptop,
    "cup": _cup,
    "suitcase": _suitcase,
}

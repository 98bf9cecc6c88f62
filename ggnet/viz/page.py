"""Panels on a page, with titles and one legend."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ggnet.viz import style

_ONE_ROW = 640  # panels wider than this stand in two columns when there is one scene
_SUPERSAMPLE = 4


def compose(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], *, matches: bool, weights: bool
) -> np.ndarray:
    """Panels (uint8 RGB), one title a column, and a legend below.

    Args:
        matches: explain ticks and crosses.
        weights: explain the ActPoints' colors.

    Raises:
        ValueError: a row with another number of panels than titles.
    """
    if any(len(row) != len(titles) for row in rows):
        counts = [len(row) for row in rows]
        raise ValueError(f"rows have {counts} panels; expected {len(titles)}, one for each title")
    if len(rows) == 1 and rows[0][0].shape[1] > _ONE_ROW:
        blocks = [(titles[i : i + 2], [rows[0][i : i + 2]]) for i in range(0, len(titles), 2)]
    else:
        blocks = [(titles, rows)]
    width = max(panel.shape[1] for row in rows for panel in row)
    gap = round(width / 40)
    font = style.font(round(min(max(width / 24, 25), 44)))
    strips = []
    for names, block in blocks:
        strips.append(_titles(names, width, gap, font))
        strips += [panel_row(row, width, gap) for row in block]
    legend = _legend(strips[1].shape[1], gap, font, matches, weights)
    full = max(strip.shape[1] for strip in [*strips, legend])
    return np.concatenate([widened(strip, full) for strip in [*strips, legend]])


def panel_row(panels: Sequence[np.ndarray], width: int, gap: int) -> np.ndarray:
    """Panels of equal width beside each other, their tops at one height."""
    scaled = []
    for panel in panels:
        if panel.shape[1] != width:
            height = round(panel.shape[0] * width / panel.shape[1])
            panel = cv2.resize(panel, (width, height), interpolation=cv2.INTER_CUBIC)
        scaled.append(panel)
    highest = max(panel.shape[0] for panel in scaled)
    parts = [paper(highest, gap)]
    for panel in scaled:
        below = paper(highest - panel.shape[0], width)
        parts += [np.concatenate([panel, below]), paper(highest, gap)]
    row = np.concatenate(parts, axis=1)
    return np.concatenate([row, paper(gap, row.shape[1])])


def _titles(names: Sequence[str], width: int, gap: int, font) -> np.ndarray:
    height = round(font.size * 1.9)
    strip = Image.fromarray(paper(height, gap + len(names) * (width + gap)))
    draw = ImageDraw.Draw(strip)
    for number, name in enumerate(names):
        x = gap + number * (width + gap) + width / 2
        draw.text((x, height * 0.55), name, fill=style.INK, font=font, anchor="mm")
    return np.array(strip)


def _legend(width: int, gap: int, font, matches: bool, weights: bool) -> np.ndarray:
    """Symbols with their meaning, in as many lines as they need."""
    line = round(font.size * 1.8)
    entries = [
        (_box_symbol(style.HUMAN), "human"),
        (_box_symbol(style.OBJECT), "object"),
        (_link_symbol, "link and interaction point"),
        (_line_symbol(style.PAIRS[0]), "to the label"),
    ]
    if matches:
        entries += [(_text_symbol("✓", (30, 150, 60)), "in the ground truth")]
        entries += [(_text_symbol("✗", (210, 50, 50)), "not in it")]
        entries += [(_text_symbol("○", (210, 50, 50)), "missed")]
    if weights:
        entries += [(_line_symbol((160, 160, 160)), "human to object")]
        entries += [(_scale_symbol, "ActPoints, from the least to the greatest weight")]
    picture = Image.new("RGB", (width, line * len(entries)), style.PAPER)
    draw = ImageDraw.Draw(picture)
    x, y = float(gap), 0
    for symbol, text in entries:
        drawn = symbol(font)
        needed = drawn.width + font.size * 0.5 + font.getlength(text)
        if x > gap and x + needed > width - gap:
            x, y = float(gap), y + line
        picture.paste(drawn, (round(x), y + (line - drawn.height) // 2))
        text_x = x + drawn.width + font.size * 0.5
        draw.text((text_x, y + line / 2), text, fill=style.INK, font=font, anchor="lm")
        x += needed + font.size * 1.4
    return np.array(picture)[: y + line + gap // 2]


def _symbol(font, width: float, paint) -> Image.Image:
    """A picture `width` font sizes wide, painted finely and reduced."""
    size = round(font.size * width), round(font.size)
    fine = Image.new("RGB", tuple(side * _SUPERSAMPLE for side in size), style.PAPER)
    paint(ImageDraw.Draw(fine), fine.width, fine.height)
    return fine.resize(size, Image.Resampling.BOX)


def _box_symbol(color: style.Color):
    def paint(draw, width, height):
        inset = height * 0.08
        box = (inset, inset, width - inset, height - inset)
        draw.rectangle(box, outline=color, width=round(height * 0.16))

    return lambda font: _symbol(font, 1.0, paint)


def _link_symbol(font) -> Image.Image:
    def paint(draw, width, height):
        draw.line((0, height / 2, width, height / 2), style.PAIRS[0], round(height * 0.14))
        x, y = width / 2, height / 2
        for r, color in ((height * 0.34, style.PAIRS[0]), (height * 0.12, style.PAPER)):
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
        for x, color in ((height * 0.25, style.HUMAN), (width - height * 0.25, style.OBJECT)):
            r = height * 0.2
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    return _symbol(font, 3.0, paint)


def _line_symbol(color: style.Color):
    def paint(draw, width, height):
        draw.line((0, height / 2, width, height / 2), color, round(height * 0.07))

    return lambda font: _symbol(font, 1.6, paint)


def _text_symbol(text: str, color: style.Color):
    def paint(draw, width, height):
        font = style.font(height)
        draw.text((width / 2, height / 2), text, fill=color, font=font, anchor="mm")

    return lambda font: _symbol(font, 0.9, paint)


def _scale_symbol(font) -> Image.Image:
    def paint(draw, width, height):
        for x in range(width):
            draw.line((x, 0, x, height), fill=style.weight_color(x / (width - 1)))

    return _symbol(font, 5.0, paint)


def paper(height: int, width: int) -> np.ndarray:
    """Empty page."""
    return np.full((height, width, 3), style.PAPER, np.uint8)


def widened(strip: np.ndarray, width: int) -> np.ndarray:
    """A strip of a page with empty page at its right."""
    if strip.shape[1] == width:
        return strip
    return np.concatenate([strip, paper(strip.shape[0], width - strip.shape[1])], axis=1)

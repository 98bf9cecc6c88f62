"""Fonts for names in any script: what DejaVu Sans lacks is looked for among the system's fonts."""

import logging
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from fontTools.ttLib import TTCollection, TTFont, TTLibError
from matplotlib import font_manager

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
# Scripts as Unicode names their characters -> the package of Debian and Ubuntu.
_PACKAGES = {"CJK": "fonts-noto-cjk", "HIRAGANA": "fonts-noto-cjk", "KATAKANA": "fonts-noto-cjk"}
_PACKAGES |= {"HANGUL": "fonts-noto-cjk"}
_OTHER_PACKAGE = "fonts-noto-core"


def runs(text: str) -> Iterator[tuple[str, Path]]:
    """The text in pieces with the font of each; one that nobody has is DejaVu's empty box.

    A logging.WARNING on "ggnet" names the font to install, once a script.
    """
    start, current = 0, DEJAVU
    for index, character in enumerate(text):
        neutral = character.isspace() or character in "._-,:0123456789"
        path = current if neutral else _font_of(character)
        if path != current:
            if index > start:
                yield text[start:index], current
            start, current = index, path
    if start < len(text):
        yield text[start:], current


def families(text: str) -> list[str]:
    """Names of the fonts beside DejaVu Sans that the text needs."""
    paths = {path: None for _, path in runs(text) if path != DEJAVU}
    return [font_manager.get_font(str(path)).family_name for path in paths]


@cache
def _font_of(character: str) -> Path:
    if ord(character) in _characters(DEJAVU):
        return DEJAVU
    for path in _system():
        if ord(character) in _characters(path):
            font_manager.fontManager.addfont(str(path))
            return path
    script = unicodedata.name(character, "?").partition(" ")[0]
    _warn(script, _PACKAGES.get(script, _OTHER_PACKAGE))
    return DEJAVU


@cache
def _warn(script: str, package: str) -> None:
    logging.getLogger("ggnet").warning(
        f"no font on this machine has {script} characters, so that names in pictures show boxes; "
        f"install one, such as Noto's (Debian, Ubuntu: apt install {package})"
    )


@cache
def _system() -> tuple[Path, ...]:
    return tuple(Path(path) for path in sorted(font_manager.findSystemFonts()))


@cache
def _characters(path: Path) -> frozenset[int]:
    """The code points that a font file has; none if it cannot be read."""
    try:
        if path.suffix.lower() == ".ttc":
            return frozenset(TTCollection(path, lazy=True).fonts[0].getBestCmap() or ())
        return frozenset(TTFont(path, lazy=True).getBestCmap() or ())
    except (OSError, TTLibError, AttributeError, AssertionError):
        return frozenset()

"""What annotation tools' exports have in common: classes by name, images by path or address.

Their entries hold names where others hold ids; `ggnet.data.convert` numbers them.
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from ggnet.data.annotations import is_file
from ggnet.data.formats.entry import Entry
from ggnet.data.problems import Problems

UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before an uploaded file's name


class Relations:
    """The relations of one image between boxes whose labels are names."""

    def __init__(self, entry: Entry, person: str, problems: Problems, path: Path):
        self.entry, self.person, self.problems, self.path = entry, person, problems, path
        self.labels = {index: row[4] for row, index in entry.boxes.items()}

    def add(self, first: int, second: int, verbs: Iterable[str], where: str) -> None:
        """`first` does each of the verbs to `second`; turned around where only that is a person."""
        if self.labels[first] != self.person:
            first, second = second, first
        if self.labels[first] != self.person:
            labels = f"{self.labels[second]} and {self.labels[first]}"
            return self.note("relation without a person", where, labels)
        verbs = [verb.strip() for verb in verbs if verb.strip()]
        if not verbs:
            self.note("relation without a verb", where, f"with {self.labels[second]}")
        for verb in verbs:
            self.entry.pair(first, second, verb)
        return None

    def note(self, kind: str, where: str, got: str) -> None:
        """Note a problem of this image."""
        self.problems.add(kind, self.path, f"{self.entry.file_name}, {where}", got)


def file_name(given: str, folder: Path) -> str:
    """The image's path in `folder`, of the path or address that a tool knows it by.

    The first that is a file there: the path or what it ends with, at last without the prefix of
    Label Studio's uploads. If none is, the name alone.
    """
    *tails, name = _tails(given)
    bare = UPLOAD.sub("", name)
    return next((text for text in (*tails, name, bare) if is_file(folder / text)), bare)


def _tails(given: str) -> Iterator[str]:
    address = urlsplit(given) if "://" in given or given.startswith("/data/") else None
    if address is not None:
        given = unquote(address.path)
        if local := parse_qs(address.query).get("d"):  # Label Studio's local files
            given = local[0]
    parts = [part for part in PurePosixPath(given.replace("\\", "/")).parts if part.strip("/.")]
    yield from ("/".join(parts[start:]) for start in range(len(parts)))


def envelope(box: list[float], degrees: float, pivot: tuple[float, float]) -> list[float]:
    """The corners of the upright box around one that is turned clockwise about a point."""
    if not degrees:
        return box
    x1, y1, x2, y2 = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    px, py = pivot
    turned = [
        (px + (x - px) * cos - (y - py) * sin, py + (x - px) * sin + (y - py) * cos)
        for x in (x1, x2)
        for y in (y1, y2)
    ]
    xs, ys = zip(*turned, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]

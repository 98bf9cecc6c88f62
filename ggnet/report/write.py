"""From values and images to the page's files."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ggnet.errors import UserError
from ggnet.io import atomic_write, temporary_prefix
from ggnet.report.gaze import Looks
from ggnet.report.pictures import make_pictures

FOLDER = Path(__file__).parent / "page"
SCRIPTS = ("dom", "data", "plot", "table", "view", "picture", "detail", "gallery", "main")
SIDE, SIDE_EMBEDDED = 1024, 480  # default longest sides of pictures
NAME = re.compile(r"\d{6,}(-small)?\.jpg")  # of a picture's file


class Page:
    """A page to be written at `path`, with its pictures in `NAME_files` beside it or within it.

    Entering checks, before any long work, that the place can be written to; leaving without
    `write` or with an exception leaves everything as it was.

    Raises:
        UserError: no .html name, no permission, or the folder for the pictures holds other files.
    """

    def __init__(self, path: str | Path, *, embed: bool = False, side: int | None = None):
        self.path = Path(path)
        if self.path.suffix.lower() not in (".html", ".htm"):
            raise UserError(f"cannot write {path}: expected a name that ends in .html")
        if self.path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder; expected the name of a file")
        if side is not None and side < 32:
            raise UserError(f"a longest side of {side} pixels; expected 32 or more")
        self.embed = embed
        self.side = side or (SIDE_EMBEDDED if embed else SIDE)
        self.folder = self.path.with_name(f"{self.path.stem}_files")

    def __enter__(self) -> "Page":
        try:
            there = os.listdir(self.folder) if self.folder.exists() else []
            others = [name for name in there if not NAME.fullmatch(name)]
        except OSError as error:
            raise UserError(
                f"{self.folder} is where the page's pictures go, and it cannot be read: "
                f"{error.strerror}; choose another --out"
            ) from None
        if others:
            raise UserError(
                f"{self.folder} is where the page's pictures go, and it holds other files, such as "
                f"{min(others)}; move them, or choose another --out"
            )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._work = Path(
                tempfile.mkdtemp(prefix=temporary_prefix(self.path), dir=self.path.parent)
            )
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}. Choose a folder that you "
                "may write to (--out)"
            ) from None
        return self

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self._work, ignore_errors=True)

    def write(
        self,
        values: dict[str, Any],
        paths: Sequence[Path],
        looks: Sequence[Looks | None] | None,
        progress: Callable[[int, int], None],
    ) -> None:
        """Make the pictures and write everything.

        Args:
            values: see `ggnet.report.contents`; its images get `width`, `height` and `small`.
            paths: the files of its images.
            looks: where the network looked, for each image.

        Raises:
            UserError: no image can be read, or the file system refuses the write.
        """
        new = self._work / "new"
        embedded = []
        try:
            new.mkdir()
            pictures = make_pictures(paths, self.side, not self.embed, progress)
            for number, (picture, image) in enumerate(zip(pictures, values["images"], strict=True)):
                image |= {"width": picture.width, "height": picture.height}
                if self.embed:
                    embedded.append(picture.full)
                    continue
                image["small"] = bool(picture.thumbnail)
                if picture.full:
                    (new / f"{number:06d}.jpg").write_bytes(picture.full)
                if picture.thumbnail:
                    (new / f"{number:06d}-small.jpg").write_bytes(picture.thumbnail)
            values["folder"] = None if self.embed else self.folder.name
            text = _html(values, looks, embedded)
            self._put(new, text)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror or error}. The previous page, if any, "
                "is untouched; free some space or choose a folder that you may write to (--out)"
            ) from None

    def _put(self, new: Path, text: str) -> None:
        """The new pictures and page in the place of the old ones, or nothing changed."""
        old = self._work / "old"
        had, moved = self.folder.exists(), False
        try:
            if had:
                self.folder.rename(old)
            if not self.embed:
                new.rename(self.folder)
                moved = True
            with atomic_write(self.path) as file:
                file.write(text.encode("utf-8", "replace"))
        except BaseException:
            if moved:
                self.folder.rename(new)
            if had and old.exists():
                old.rename(self.folder)
            raise


def _html(
    values: dict[str, Any], looks: Sequence[Looks | None] | None, embedded: Sequence[bytes]
) -> str:
    """The whole page. Embedded pictures come last: the first is seen before the last is read."""
    script = "\n".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    steps = None
    if looks is not None and any(looks):
        shape = next(look.shape for look in looks if look is not None)
        values["gaze"] = {"steps": shape[0], "points": shape[1]}
        steps = ["" if look is None else base64.b64encode(look.steps).decode() for look in looks]
    pictures = "".join(
        f'<script type="text/plain" id="picture-{number}">{base64.b64encode(data).decode()}'
        "</script>\n"
        for number, data in enumerate(embedded)
    )
    parts = {
        "title": html.escape(values["title"]),
        "policy": f"default-src 'none'; img-src 'self' file: data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        "style": (FOLDER / "style.css").read_text(encoding="utf-8"),
        "data": _json(values),
        "gaze": _json(steps),
        "script": script,
        "pictures": pictures,
    }
    template = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _json(values: Any) -> str:
    """JSON that no text in it can end: without a `<` there is no `</script>` and no `<!--`."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")

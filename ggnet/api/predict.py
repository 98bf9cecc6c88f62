"""`ggnet predict`: pictures, videos and JSON for a user's own images."""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ggnet.api.model import Model
from ggnet.api.result import Result, check_threshold
from ggnet.data.inputs import Found, Frame, Input
from ggnet.data.scenes.recipe import NAME as SCENES
from ggnet.engine.evaluation import PREDICTIONS
from ggnet.errors import UserError
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.io import atomic_write
from ggnet.progress import progress
from ggnet.viz.defaults import TOP
from ggnet.viz.style import save_picture

GAZE = "gaze"  # subfolder
_LISTED = 5  # names in a message
_FEW = 30  # verbs that a message lists


def predict(
    found: Found,
    model: Model,
    out: str | os.PathLike | None,
    *,
    threshold: float | None = None,
    top: int = TOP,
    actpoints: bool = False,
    batch: int = 1,
    print_json: bool = False,
    console: Console | None = None,
) -> int:
    """Detect interactions in images and videos and write what was found to the folder `out`.

    `predictions.json` holds every triplet of every image; a PNG for each image, named after it and
    of its size, shows the best ones. A video, or an animated image, gives NAME.mp4 with the
    triplets drawn and NAME.jsonl with a line for each frame. What cannot be read is reported and
    the rest goes on.

    Args:
        found: what `find_inputs` found.
        out: a folder without results; None: nothing is written.
        threshold: lowest score drawn and listed; None: the model's.
        top: most triplets drawn in one picture.
        actpoints: also write gaze/NAME.png, which shows the best triplet's ActPoints.
        batch: images that the network sees at once.
        print_json: a line of JSON on stdout for each image or frame.

    Returns:
        The exit status: 0, or 1 if some of the images could not be read.

    Raises:
        UserError: none of the images can be read; a result would replace an input or another
            run's; a result cannot be written.
    """
    console = console or Console(stderr=print_json)
    lowest = model.threshold if threshold is None else check_threshold(threshold)
    if top < 1:
        raise UserError(f"--top is {top}; expected at least 1")
    if batch < 1:
        raise UserError(f"--batch is {batch}; expected at least 1")
    if actpoints and not model.has_actpoints:
        raise UserError(f"--actpoints: the network of {model.source} has no ActPoints")
    names = result_names(found.inputs)
    sink = _Sink(None if out is None else Path(out), top, actpoints)
    sink.check(found.inputs, names)
    failures: list[str] = []
    tally = _Tally()
    interrupted = False
    # Lines of JSON on a terminal say how far it is, and a bar would stand between them.
    quiet = print_json and sys.stdout.isatty()
    with nullcontext(lambda *_: None) if quiet else progress("predicting") as told:
        frames = _frames(list(zip(found.inputs, names, strict=True)), failures, told)
        try:
            for name, result in _results(model, frames, lowest, batch):
                tally.add(result)
                sink.add(name, result)
                if print_json:
                    print(result.to_json(), flush=True)
        except KeyboardInterrupt:
            interrupted = True
        finally:  # also what an interrupted run has found
            sink.close(model)
    if not tally.images and not interrupted:
        raise UserError("\n".join(["none of the images can be used:", *failures]))
    if not print_json:
        tally.report(console, model, lowest, top)
    sink.report(console)
    for what, paths in (
        ("not images by their suffix", found.passed_over),
        ("folders not searched (--recursive does; links to folders never)", found.folders),
    ):
        if paths:
            console.print(f"{what}: {escape(_shortened(paths))}", highlight=False, soft_wrap=True)
    if failures:
        console.print(f"[red]{_count(len(failures), 'file')} with a problem[/]:")
        console.print(escape("\n".join(failures)), highlight=False, soft_wrap=True)
    if interrupted:
        console.print(f"[red]stopped[/] after {_count(tally.images, 'image')}")
        raise KeyboardInterrupt
    return 1 if failures else 0


def result_names(inputs: Sequence[Input]) -> list[str]:
    """A name for each input's results: its stem, longer where two would share it.

    Names also differ when case is ignored, as on some file systems.
    """
    stems = Counter(one.stem.lower() for one in inputs)
    names: list[str] = []
    taken: set[str] = set()
    for one in inputs:
        alone = stems[one.stem.lower()] == 1 or not one.suffix
        first = name = one.stem if alone else f"{one.stem}_{one.suffix[1:]}"
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{first}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def _frames(
    jobs: list[tuple[Input, str]],
    failures: list[str],
    told: Callable[..., None],
) -> Iterator[tuple[str, Frame]]:
    """All frames with their results' names; what cannot be read is added to `failures`."""
    for done, (one, name) in enumerate(jobs):
        try:
            for frame in one.frames():
                told(done, len(jobs), "" if frame.index is None else f"frame {frame.index}")
                yield name, frame
        except UserError as error:
            failures.append(str(error))
        told(done + 1, len(jobs))


def _results(
    model: Model, frames: Iterator[tuple[str, Frame]], threshold: float, batch: int
) -> Iterator[tuple[str, Result]]:
    some: list[tuple[str, Frame]] = []
    for item in frames:
        some.append(item)
        if len(some) == batch:
            yield from _looked_at(model, some, threshold)
            some = []
    if some:
        yield from _looked_at(model, some, threshold)


def _looked_at(
    model: Model, some: list[tuple[str, Frame]], threshold: float
) -> Iterator[tuple[str, Result]]:
    names, frames = zip(*some, strict=True)
    yield from zip(names, model.look(list(frames), threshold), strict=True)


class _Tally:
    """What was found, for the last lines."""

    def __init__(self) -> None:
        self.images = self.triplets = 0
        self.best: float | None = None
        self.only: Result | None = None

    def add(self, result: Result) -> None:
        self.images += 1
        self.triplets += len(result)
        self.only = result if self.images == 1 else None
        if result.best is not None:
            self.best = max(self.best or 0.0, result.best.score)

    def report(self, console: Console, model: Model, threshold: float, top: int) -> None:
        """The triplets of a single image, or how many there are in each of several."""
        if self.only is not None and len(self.only):
            table = Table("score", "human", "verb", "object", "", title=escape(self.only.name))
            for t in self.only[:top]:
                scores = f"{t.human.score:.2f}", f"{t.object.score:.2f}"
                table.add_row(
                    f"{t.score:.2f}", scores[0], escape(t.verb), escape(t.object.name), scores[1]
                )
            console.print(table)
            console.print("a score is the product of the interaction's, the human's, the object's")
            return
        console.print(
            f"{_count(self.triplets, 'interaction')} of score {threshold:.2g} or more in "
            f"{_count(self.images, 'image')}"
        )
        if not self.triplets and self.images:
            console.print(_why_nothing(model, self.best), highlight=False, soft_wrap=True)


def _why_nothing(model: Model, best: float | None) -> str:
    if best is None:
        lines = ["nothing was found at any score"]
    else:
        lines = [f"the best has {best:.2g}: show it with --threshold {_below(best)}"]
    if len(model.verbs) <= _FEW:
        verbs, objects = (", ".join(names) for names in (model.verbs, model.objects[1:]))
        lines.append(f"this network knows {len(model.verbs)} verbs ({verbs}) and, beside people, ")
        lines[-1] += f"{len(model.objects) - 1} objects ({objects})"
    if model.vocabulary.name == SCENES:
        lines.append("it was trained on generated drawings: photos are foreign to it")
    return escape("\n".join(lines))


def _below(score: float) -> str:
    """A short number that is not above the score."""
    digits = max(2, int(-np.log10(score)) + 2)
    return f"{np.floor(score * 10**digits) / 10**digits:.{digits}f}"


class _Sink:
    """Where results go: pictures, videos and JSON in a folder, or nowhere."""

    def __init__(self, out: Path | None, top: int, actpoints: bool):
        self.out, self.top, self.actpoints = out, top, actpoints
        self.predictions: list[ImagePrediction] = []
        self.pictures = self.videos = 0
        self._film: _Film | None = None

    def check(self, inputs: Sequence[Input], names: Sequence[str]) -> None:
        """Refuse to mix two runs' results, or to replace an input."""
        if self.out is None:
            return
        if (self.out / PREDICTIONS).exists():
            raise UserError(
                f"{self.out} holds the results of another run; name another folder with --out, or "
                "delete it"
            )
        files = {Path(one.name).resolve() for one in inputs if os.path.exists(one.name)}
        endings = (".png", ".mp4", ".jsonl")
        for name in names:
            results = [self.out / f"{name}{ending}" for ending in endings]
            for result in [*results, self.out / GAZE / f"{name}.png"]:
                if result.resolve() in files:
                    raise UserError(
                        f"the result {result} would replace the input of that name; choose "
                        "another folder with --out"
                    )

    def add(self, name: str, result: Result) -> None:
        """Write one result."""
        if self.out is None:
            return
        if self._film is not None and self._film.name != name:
            self._end_film()
        if result.index is not None:
            if self._film is None:
                self._film = _Film(self.out, name)
            self._film.add(result, result.plot(top=self.top, listed=False))
            return
        self.predictions.append(replace(result.prediction, image_id=name, detections=None))
        save_picture(self.out / f"{name}.png", result.plot(top=self.top))
        if self.actpoints:
            page = result.plot(top=self.top, actpoints=True)
            save_picture(self.out / GAZE / f"{name}.png", page)
        self.pictures += 1

    def close(self, model: Model) -> None:
        """Finish the last video and write the predictions."""
        self._end_film()
        if self.out is not None and (self.predictions or self.videos):
            write_predictions(self.out / PREDICTIONS, self.predictions, model.vocabulary)

    def report(self, console: Console) -> None:
        """What there is now."""
        if self.out is None or not (self.pictures or self.videos):
            return
        parts = [_count(self.pictures, "picture")] if self.pictures else []
        parts += [_count(self.videos, "video")] if self.videos else []
        console.print(
            f"{', '.join(parts)} and {PREDICTIONS} in [bold]{self.out}[/]", soft_wrap=True
        )

    def _end_film(self) -> None:
        if self._film is not None:
            film, self._film = self._film, None
            film.close()
            self.videos += 1


class _Film:
    """A video with the triplets drawn, and a line of JSON for each frame."""

    def __init__(self, out: Path, name: str):
        self.name, self.path = name, out / f"{name}.mp4"
        self._stack = ExitStack()
        self._lines = self._stack.enter_context(atomic_write(out / f"{name}.jsonl", "w"))
        self._folder = tempfile.TemporaryDirectory(prefix=".video.", dir=self.path.parent)
        self._draft = Path(self._folder.name) / self.path.name
        self._frames: list[tuple[float, np.ndarray]] = []  # until the rate is known
        self._writer: cv2.VideoWriter | None = None
        self._size: tuple[int, int] = (0, 0)
        self._written = 0

    def add(self, result: Result, picture: np.ndarray) -> None:
        """The next frame."""
        self._lines.write(result.to_json() + "\n")
        if self._writer is None:
            self._frames.append((result.seconds or 0.0, picture))
            if len(self._frames) < 2:
                return
            self._open()
        else:
            self._write(picture)

    def close(self) -> None:
        """Put the files into place.

        Raises:
            UserError: they could not be written.
        """
        if self._writer is None:
            self._open()
        self._writer.release()
        self._stack.close()
        check = cv2.VideoCapture(str(self._draft))
        arrived = int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check.isOpened() else 0
        check.release()
        if arrived < self._written:
            free = shutil.disk_usage(self.path.parent).free >> 20
            raise UserError(
                f"cannot write {self.path}: {arrived} of {self._written} frames arrived; {free} MB "
                "are free there"
            )
        os.replace(self._draft, self.path)
        self._folder.cleanup()

    def _open(self) -> None:
        times = [time for time, _ in self._frames]
        gap = times[-1] - times[0]
        rate = 1 / gap if gap > 0 else 25.0
        height, width = self._frames[0][1].shape[:2]
        self._size = width - width % 2, height - height % 2  # the encoder wants even sides
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._draft), codec, min(rate, 240.0), self._size)
        if not self._writer.isOpened():
            raise UserError(f"cannot write {self.path}: this OpenCV has no encoder for it")
        for _, picture in self._frames:
            self._write(picture)
        self._frames = []

    def _write(self, picture: np.ndarray) -> None:
        width, height = self._size
        if picture.shape[0] < height or picture.shape[1] < width:  # a stream that changed its size
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR))
        self._written += 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shortened(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(str(path) for path in paths[:_LISTED]) + more

"""`ggnet predict`: pictures and JSON for a user's own images."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from ggnet.data.images import image_files, read_image
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import open_checkpoint
from ggnet.engine.device import choose_device
from ggnet.engine.evaluation import PREDICTIONS
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.viz.defaults import THRESHOLD, TOP
from ggnet.viz.draw import draw_gaze, draw_predictions
from ggnet.viz.style import save_picture

GAZE = "gaze"  # subfolder
_LISTED = 5  # names in a message


def predict(
    sources: Sequence[str | os.PathLike],
    checkpoint: str | os.PathLike,
    out: str | os.PathLike,
    *,
    threshold: float = THRESHOLD,
    top: int = TOP,
    actpoints: bool = False,
    device: str = "auto",
    console: Console | None = None,
) -> int:
    """Detect interactions in images and write what was found to the folder `out`.

    `predictions.json` holds every triplet of every image; a PNG for each image, named after it and
    of its size, shows the best ones. A file that cannot be read is reported and the rest goes on.

    Args:
        sources: image files and folders; of a folder, the images directly in it.
        checkpoint: a checkpoint file or run folder.
        threshold: lowest score drawn.
        top: most triplets drawn in one picture.
        actpoints: also write gaze/NAME.png, which shows the best triplet's ActPoints.

    Returns:
        The exit status: 0, or 1 if some of the images could not be read.

    Raises:
        UserError: no images, or none that can be read; a result would replace an input; the
            checkpoint cannot be used; a result cannot be written.
    """
    console = console or Console()
    if not 0 <= threshold <= 1:
        raise UserError(f"--threshold is {threshold}; expected a score from 0 to 1")
    if top < 1:
        raise UserError(f"--top is {top}; expected at least 1")
    paths, ignored = _inputs(sources)
    out = Path(out)
    names = picture_names(paths)
    pictures = [folder / f"{name}.png" for folder in (out, out / GAZE) for name in names]
    _protect_inputs(paths, [out / PREDICTIONS, *pictures])
    predictor = Predictor.of(open_checkpoint(checkpoint), choose_device(device, name="--device"))
    vocabulary = predictor.vocabulary
    predictions: list[ImagePrediction] = []
    failures: list[str] = []
    todo = list(zip(paths, names, strict=True))
    if console.is_terminal:
        todo = track(todo, "predicting", console=console, transient=True)
    try:
        for path, name in todo:
            try:
                image = read_image(path)
            except UserError as error:
                failures.append(str(error))
                continue
            images, [meta] = predictor.prepare([image], [str(path)])
            [(prediction, gaze)] = predictor.look(images, [replace(meta, image_id=name)])
            if actpoints and not len(gaze.actpoints):
                raise UserError(f"--actpoints: the network in {checkpoint} has no ActPoints")
            predictions.append(prediction)
            shown = {"threshold": threshold, "top": top}
            picture = draw_predictions(image, prediction, vocabulary, gaze, **shown)
            save_picture(out / f"{name}.png", picture)
            if actpoints:
                page = draw_gaze(image, prediction, gaze, vocabulary, **shown)
                save_picture(out / GAZE / f"{name}.png", page)
    finally:  # also what an interrupted run has found
        if predictions:
            write_predictions(out / PREDICTIONS, predictions, vocabulary)
    if not predictions:
        raise UserError("\n".join(["none of the images can be used:", *failures]))
    _report(console, predictions, vocabulary, threshold, top)
    console.print(f"{_count(len(predictions), 'picture')} and {PREDICTIONS} in [bold]{out}[/]")
    if ignored:
        console.print(f"not images by their suffix: {escape(_shortened(ignored))}", highlight=False)
    if failures:
        console.print(f"[red]{_count(len(failures), 'file')} left out[/]:")
        console.print(escape("\n".join(failures)), highlight=False, soft_wrap=True)
    return 1 if failures else 0


def picture_names(paths: Sequence[Path]) -> list[str]:
    """A name for each image's results: its stem, longer where two would share it.

    Names also differ when case is ignored, as on some file systems.
    """
    stems = Counter(path.stem.lower() for path in paths)
    names: list[str] = []
    taken: set[str] = set()
    for path in paths:
        alone = stems[path.stem.lower()] == 1
        first = name = path.stem if alone else f"{path.stem}_{path.suffix[1:]}"
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{first}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def _inputs(sources: Sequence[str | os.PathLike]) -> tuple[list[Path], list[Path]]:
    """The images that the sources mean, each file once, and other files beside them."""
    files: dict[Path, Path] = {}
    ignored: list[Path] = []
    for source in map(Path, sources):
        images = [source]
        if source.is_dir():
            images, others = image_files(source)
            ignored += others
        elif not source.exists():
            raise UserError(f"no image or folder at {source}; check the path")
        for path in images:
            files.setdefault(path.resolve(), path)
    if not files:
        where = ", ".join(map(str, sources))
        raise UserError(
            f"no images in {where} (subfolders are not searched); expected files such as .jpg "
            "and .png"
        )
    return list(files.values()), ignored


def _protect_inputs(paths: Sequence[Path], results: Sequence[Path]) -> None:
    inputs = {path.resolve() for path in paths}
    for result in results:
        if result.resolve() in inputs:
            raise UserError(
                f"the result {result} would replace the input of that name; choose another folder "
                "with --out"
            )


def _report(
    console: Console,
    predictions: list[ImagePrediction],
    vocabulary: Vocabulary,
    threshold: float,
    top: int,
) -> None:
    """The triplets of a single image, or how many there are in each of several."""
    if len(predictions) == 1:
        [prediction] = predictions
        table = Table("score", "verb", "object", title=escape(prediction.file_name))
        kept = [i for i in range(len(prediction)) if prediction.scores[i] >= threshold][:top]
        for i in kept:
            table.add_row(
                f"{prediction.scores[i]:.2f}",
                escape(vocabulary.verbs[prediction.verbs[i]]),
                escape(vocabulary.objects[prediction.object_labels[i]]),
            )
        if kept:
            console.print(table)
            return
    found = sum(int((prediction.scores >= threshold).sum()) for prediction in predictions)
    console.print(
        f"{_count(found, 'interaction')} of score {threshold:.2f} or more in "
        f"{_count(len(predictions), 'image')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shortened(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _LISTED} more" if len(paths) > _LISTED else ""
    return ", ".join(str(path) for path in paths[:_LISTED]) + more

"""`ggnet compare`: what several runs say about the same images, and what they get wrong."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.console import Console

from ggnet.config import load_config
from ggnet.data.annotations import Dataset, ImageRecord, read_json
from ggnet.data.images import read_image
from ggnet.data.unseen import open_dataset
from ggnet.engine.evaluation import PREDICTIONS, find_root
from ggnet.errors import UserError, reading
from ggnet.eval.errors import CAUSES, counted, triplet_causes
from ggnet.eval.predictions import ImagePrediction, read_predictions
from ggnet.eval.report import METRICS
from ggnet.viz.compare import Failure, draw_failures, draw_runs
from ggnet.viz.style import save_picture

CONFIG = "config.yaml"
SIDE_BY_SIDE, FAILURES = "compare.png", "failures-{}.png"


@dataclass(eq=False)
class Evaluated:
    """What a run's last evaluation found, by image id."""

    name: str
    predictions: dict[str, ImagePrediction]


@dataclass(eq=False)
class Comparison:
    """Runs that were evaluated on the same images."""

    dataset: Dataset
    split: str
    records: list[ImageRecord]
    runs: list[Evaluated]


def open_runs(folders: Sequence[str | Path], root: str | None = None) -> Comparison:
    """Read the predictions of runs (predictions.json, of the last evaluation).

    Args:
        folders: run folders.
        root: of the dataset; None: where the first run had it.

    Raises:
        UserError: a run that was not evaluated, or on other images or another split than the
            first, or given twice; a dataset or file that is missing or broken.
    """
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        for name in (CONFIG, METRICS, PREDICTIONS):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} has no {name}: not a run that was evaluated. `ggnet eval {folder}` "
                    "does it"
                )
    for first, second in combinations(folders, 2):
        if first.samefile(second):
            raise UserError(f"{first} and {second} are one run; give different runs")
    splits = {folder: _split(folder) for folder in folders}
    if len(set(splits.values())) > 1:
        said = ", ".join(f"{folder} on {split}" for folder, split in splits.items())
        raise UserError(
            f"the last evaluations were of different splits: {said}. `ggnet eval RUN --split SPLIT`"
        )
    config = load_config(folders[0] / CONFIG)
    config.data.root = root or find_root(
        config.data.root, folders[0] / CONFIG, Console(stderr=True)
    )
    dataset, split = open_dataset(config.data), splits[folders[0]]
    records = dataset.load(split)
    known = {record.image_id for record in records}
    runs = []
    for folder, name in zip(folders, _names(folders), strict=True):
        found = read_predictions(folder / PREDICTIONS, dataset.vocabulary)
        by_id = {prediction.image_id: prediction for prediction in found}
        if by_id.keys() != known:
            raise UserError(
                f"{folder} was evaluated on {len(by_id)} images, of which "
                f"{len(by_id.keys() & known)} are among the {len(known)} of split '{split}' of "
                f"{dataset.root}; expected the same. "
                f"`ggnet eval {folder} data.root={dataset.root}` evaluates it there"
            )
        runs.append(Evaluated(name, by_id))
    return Comparison(dataset, split, records, runs)


def choose(
    comparison: Comparison, count: int, names: Sequence[str] | None = None
) -> list[ImageRecord]:
    """Images to show: those named, else `count` with annotated pairs, evenly spaced.

    Raises:
        UserError: no image of that name.
    """
    if names is None:
        there = [record for record in comparison.records if len(record.pairs)]
        places = np.linspace(0, len(there) - 1, min(count, len(there))).astype(int)
        return [there[place] for place in places]
    by_name = {key: r for r in comparison.records for key in (r.file_name, r.image_id)}
    for name in names:
        if name not in by_name:
            raise UserError(
                f"split '{comparison.split}' of {comparison.dataset.root} has no image '{name}'; "
                f"the first is {comparison.records[0].file_name}"
            )
    return [by_name[name] for name in names]


def compare(
    comparison: Comparison,
    out: Path,
    *,
    count: int = 6,
    names: Sequence[str] | None = None,
    top: int | None = None,
) -> Path:
    """Draw the chosen images with each run's best triplets side by side; the picture's path.

    Raises:
        UserError: see `choose`; an image is gone; the picture cannot be written.
    """
    scenes = [
        (
            read_image(record.path),
            record,
            [run.predictions[record.image_id] for run in comparison.runs],
        )
        for record in choose(comparison, count, names)
    ]
    titles = [run.name for run in comparison.runs]
    page = draw_runs(scenes, titles, comparison.dataset.vocabulary, top=top)
    save_picture(out / SIDE_BY_SIDE, page)
    return out / SIDE_BY_SIDE


def compare_failures(comparison: Comparison, out: Path, *, count: int = 4) -> list[Path]:
    """Draw each run's most confident errors, `count` of every kind; the pictures' paths.

    Raises:
        UserError: an image is gone; a picture cannot be written.
    """
    paths = []
    for run in comparison.runs:
        failures, counts = find_failures(
            list(run.predictions.values()), comparison.records, comparison.dataset, count
        )
        if not failures:
            raise UserError(f"{run.name} has no errors among its best-scored detections")
        page = draw_failures(failures, counts, comparison.dataset.vocabulary)
        paths.append(out / FAILURES.format(run.name.replace("/", "-")))
        save_picture(paths[-1], page)
    return paths


def find_failures(
    predictions: Sequence[ImagePrediction],
    records: Sequence[ImageRecord],
    dataset: Dataset,
    count: int,
) -> tuple[dict[str, list[Failure]], Counter]:
    """The most confident errors of each kind, one an image, and how many detections are of it.

    The detections are those that `ggnet eval` sorts by cause.
    """
    by_id = {record.image_id: record for record in records}
    names = list(CAUSES)
    counts: Counter = Counter()
    wrong: list[tuple[float, ImagePrediction, int, str]] = []
    for prediction, rows in zip(
        predictions, counted(predictions, records, dataset.vocabulary), strict=True
    ):
        if not rows.any():
            continue
        causes, _ = triplet_causes(prediction, by_id[prediction.image_id], rows)
        for row in np.flatnonzero(rows).tolist():
            cause = names[causes[row]]
            counts[cause] += 1
            if cause != "correct":
                wrong.append((float(prediction.scores[row]), prediction, row, cause))
    wrong.sort(key=lambda item: (-item[0], item[1].image_id, item[2]))
    found: dict[str, list[Failure]] = {}
    for cause in names:
        chosen: dict[str, Failure] = {}
        for _, prediction, row, kind in wrong:
            if kind != cause or len(chosen) == count or prediction.image_id in chosen:
                continue
            record = by_id[prediction.image_id]
            image = read_image(record.path)
            chosen[record.image_id] = Failure(image, record, prediction, row, cause)
        if chosen:
            found[cause] = list(chosen.values())
    return found, counts


def _split(folder: Path) -> str:
    with reading(folder / METRICS, "the metrics of `ggnet eval`"):
        return str(read_json(folder / METRICS)["split"])


def _names(folders: Sequence[Path]) -> list[str]:
    """What tells the runs apart: the folders' names (a link's is its own), or so much of the paths
    as it takes."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    lengths = range(1, max(map(len, parts)) + 1)
    choices = (["/".join(part[-length:]) for part in parts] for length in lengths)
    return next(names for names in choices if len(set(names)) == len(names))

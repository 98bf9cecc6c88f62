"""The page of a run, of a prediction file or of a dataset."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ggnet.config import Config, EvalConfig, override
from ggnet.data.annotations import Dataset, ImageRecord, load_dataset, read_json
from ggnet.data.unseen import open_dataset
from ggnet.engine.checkpoint import BEST, LAST, Checkpoint, check_same_config, open_checkpoint
from ggnet.engine.evaluation import PREDICTIONS, RESULTS, check_vocabulary, find_root
from ggnet.errors import UserError, reading
from ggnet.eval.errors import counted
from ggnet.eval.predictions import read_predictions
from ggnet.eval.report import METRICS, Report
from ggnet.eval.score import score, score_file
from ggnet.progress import progress
from ggnet.report import contents
from ggnet.report.gaze import BEST as GAZED
from ggnet.report.gaze import Looks, look
from ggnet.report.write import Page

PAGE = "report.html"


def report_run(
    run: str | Path, overrides: list[str], page: Page | None = None, *, actpoints: bool = True
) -> Path:
    """The page of a run's last evaluation, from its predictions.json and metrics.json.

    Args:
        run: its folder, or a checkpoint in it.
        overrides: changes of data, eval and train.device.
        page: where it goes; None: report.html in the run's folder.
        actpoints: run the network over the images to show where it looked, if it has gaze steps.

    Returns:
        The page's path.

    Raises:
        UserError: the run was not evaluated, its files do not fit each other or the dataset, or
            the page cannot be written.
    """
    checkpoint = open_checkpoint(run)
    folder = checkpoint.path.parent
    for name in (PREDICTIONS, METRICS):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}: it was not evaluated, or its evaluation was written "
                f"elsewhere. `ggnet eval {folder}` evaluates it"
            )
    config = override(checkpoint.config, overrides)
    check_same_config(checkpoint.config, config, checkpoint.path, {"data", "eval", "train"})
    config.data.root = find_root(config.data.root, checkpoint.path, Console(stderr=True))
    with page or Page(folder / PAGE) as opened:
        dataset = open_dataset(config.data)
        check_vocabulary(dataset, checkpoint.vocabulary, checkpoint.path)
        report, detection = _evaluated(folder, dataset, config.eval)
        looks = None
        if actpoints and config.model.aggregation in ("gaze", "actpoints"):
            looks = _look(checkpoint, config, dataset, report)
        values = contents.of_report(report, str(run), looks, folder / RESULTS, detection)
        _write(opened, values, dataset, report.split, report.records, looks)
    return opened.path


def report_file(
    path: str | Path, config: Config, split: str | None, page: Page | None = None
) -> Path:
    """The page of a prediction file, whoever made it, for the dataset `config.data.root`.

    Args:
        split: None: test, or val without a test.
        page: where it goes; None: report.html in the current folder.

    Raises:
        UserError: file and dataset do not belong together, or the page cannot be written.
    """
    with page or Page(PAGE) as opened:
        dataset = open_dataset(config.data)
        report = score_file(path, dataset, split or dataset.split_to_score, config.eval)
        if report.predictions is None:
            raise UserError(
                f"{path} is a V-COCO pickle, which has no triplets to show; give this package's "
                "JSON or PPDM's"
            )
        values = contents.of_report(report, str(path))
        _write(opened, values, dataset, report.split, report.records, None)
    return opened.path


def browse(root: str | Path, split: str | None, page: Page) -> Path:
    """The page of a dataset's split without predictions.

    Args:
        split: None: train, or the first one without a train.

    Raises:
        UserError: no such dataset or split, or the page cannot be written.
    """
    with page:
        dataset = load_dataset(root)
        if split is None:
            split = "train" if "train" in dataset.splits else next(iter(dataset.splits), "train")
        records = dataset.load(split, look_for_images=False)
        facts = [f"split {split}", f"{len(records):,} images"]
        values = contents.of_records(
            records,
            dataset.vocabulary,
            f"{dataset.vocabulary.name} ({root})",
            facts,
            dataset.rare_hois(),
        )
        _write(page, values, dataset, split, records, None)
    return page.path


def _evaluated(
    folder: Path, dataset: Dataset, config: EvalConfig
) -> tuple[Report, dict[str, float] | None]:
    """The run's predictions, scored anew as its metrics.json says, and what only that says: the
    AP of the boxes, if it does."""
    metrics = read_json(folder / METRICS)
    again = f"evaluate the run again: `ggnet eval {folder}`"
    if not isinstance(metrics, dict) or not isinstance(metrics.get("split"), str):
        raise UserError(f"{folder / METRICS} does not say which split it is of; {again}")
    split, missing = metrics["split"], metrics.get("missing_images")
    if missing:
        records, missing = dataset.load_to_score(split, partial=True)
    else:
        records, missing = dataset.load(split, look_for_images=False), 0
    predictions = read_predictions(folder / PREDICTIONS, dataset.vocabulary)
    report = score(predictions, dataset, split, config, records, missing)
    for key, value in report.to_dict().items():
        if not _same(metrics.get(key), value):
            raise UserError(
                f"{folder / PREDICTIONS} and the dataset {dataset.root} do not give what "
                f"{folder / METRICS} says: {key} differs. Was the dataset changed, or the run "
                "evaluated with other settings? Give the same ones (data.root=..., eval...=...), "
                f"or {again}"
            )
    with reading(folder / METRICS, "the metrics that `ggnet eval` writes"):
        detection = metrics.get("object_detection")
        if detection is not None:
            figures = {name: detection[name] for name in ("AP", "AP50")}
            detection = {n: math.nan if v is None else float(v) for n, v in figures.items()}
    return report, detection


def _same(a: Any, b: Any) -> bool:
    """Whether two values of JSON are equal; numbers but for another processor's rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6)
    return a == b


def _look(
    best: Checkpoint, config: Config, dataset: Dataset, report: Report
) -> list[Looks | None] | None:
    """Where the network looked for each image's best triplets; None for none without gaze."""
    if config.model.aggregation == "gaze" and not config.model.gaze_steps:
        return None
    checkpoints = [best]
    if best.path.name == BEST and (last := best.path.with_name(LAST)).is_file():
        checkpoints.append(open_checkpoint(last))
    predictions = {p.image_id: p for p in report.predictions}
    kept = {}
    chosen = counted(report.predictions, report.records, report.vocabulary)
    for prediction, rows in zip(report.predictions, chosen, strict=True):
        kept[prediction.image_id] = rows.copy()
        kept[prediction.image_id][np.argsort(-prediction.scores, kind="stable")[:GAZED]] = True
    there, _ = dataset.load_to_score(report.split, partial=True)
    with progress("looking for ActPoints, batches") as told:
        looks = look(checkpoints, config, there, predictions, kept, told)
    return [looks.get(record.image_id) for record in report.records]


def _write(
    page: Page,
    values: dict[str, Any],
    dataset: Dataset,
    split: str,
    records: list[ImageRecord],
    looks: list[Looks | None] | None,
) -> None:
    images = dataset.splits[split].images
    paths = [images / record.file_name for record in records]
    with progress("making pictures") as told:
        page.write(values, paths, looks, told)

"""Running a network over a split and scoring what it finds."""

import math
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ggnet.config import Config, override
from ggnet.data.annotations import Dataset, ImageRecord, hoi_counts, load_dataset
from ggnet.data.dataset import make_loader
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import check_same_config, open_checkpoint
from ggnet.engine.distributed import Worker, join_workers
from ggnet.engine.inference import Predictor
from ggnet.engine.signals import Interrupted, StopRequest
from ggnet.errors import UserError
from ggnet.eval import hico, vcoco
from ggnet.eval.detection import read_detections
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.eval.report import METRICS as METRICS
from ggnet.eval.report import Report, Result, make_report
from ggnet.eval.score import warn_without_roles

RESULTS, PREDICTIONS = "results.csv", "predictions.json"


def predict_split(
    predictor: Predictor,
    records: list[ImageRecord],
    worker: Worker,
    console: Console | None = None,
    stop: StopRequest | None = None,
) -> list[ImagePrediction]:
    """Predictions of all records, each process running its share; complete on every process.

    Raises:
        Interrupted: `stop` was requested and there are no other processes to wait for.
    """
    loader = make_loader(
        records,
        predictor.vocabulary,
        predictor.config,
        train=False,
        rank=worker.rank,
        world_size=worker.world_size,
    )
    batches: Iterable = loader
    if console is not None and console.is_terminal:
        batches = track(loader, "evaluating", total=len(loader), console=console, transient=True)
    mine = []
    for batch in batches:
        if stop is not None and stop.requested and worker.world_size == 1:
            raise Interrupted
        mine += predictor(batch.images, batch.meta)
    shares = worker.gather(mine)
    return sorted((p for share in shares for p in share), key=lambda p: p.image_id)


def score(
    predictions: list[ImagePrediction],
    records: list[ImageRecord],
    train_records: list[ImageRecord],
    dataset: Dataset,
    config: Config,
) -> Result:
    """V-COCO's metric where the test split has its roles, else HICO's.

    Rare are the HOIs that the dataset lists, else those with few training pairs.
    """
    if roles := dataset.splits["test"].roles:
        found = vcoco.role_predictions(predictions, dataset.vocabulary)
        return vcoco.evaluate(found, vcoco.read_roles(roles))
    counts = hoi_counts(train_records, dataset.vocabulary) if dataset.rare is None else None
    return hico.evaluate(
        predictions,
        records,
        dataset.vocabulary,
        train_counts=counts,
        rare_threshold=config.eval.rare_threshold,
        rare=dataset.rare,
        protocol=config.eval.protocol,
        points=config.eval.points,
    )


def figures(result: Result) -> dict[str, float]:
    """The means that results.csv lists; the first one decides which checkpoint is the best."""
    if isinstance(result, vcoco.VcocoResult):
        values = [("mAP", result.mean_role_ap()), ("mAP_s2", result.mean_role_ap("scenario 2"))]
    else:
        values = [("mAP", result.mean_ap())]
        values += [
            (f"mAP_{group.replace('-', '_')}", result.mean_ap(group=group))
            for group in result.groups
            if group != "full"
        ]
        values += [("mAP_known_object", result.mean_ap("known-object"))]
    return {name: value for name, value in values if not math.isnan(value)}


def write_results(
    folder: Path,
    result: Result,
    predictions: list[ImagePrediction],
    records: list[ImageRecord],
    vocabulary: Vocabulary,
) -> Report:
    """Predictions, metrics, causes of errors and the table of classes into a run folder."""
    write_predictions(folder / PREDICTIONS, predictions, vocabulary)
    report = make_report(result, predictions, records, vocabulary)
    report.write(folder)
    return report


def write_plots(run: Path, result: Result | None, config: Config) -> None:
    """Curves of a run, and the AP of each HOI by HICO's metric, as PNG into its folder."""
    from ggnet.viz.curves import plot_curves, plot_hoi_ap  # matplotlib is slow to import

    plot_curves(run / RESULTS, run / "curves.png")
    if isinstance(result, hico.HicoResult):
        dataset = load_dataset(config.data.root)
        records = dataset.load("train", look_for_images=False)
        counts = hoi_counts(records, dataset.vocabulary)
        plot_hoi_ap(result, counts, run / "ap_per_hoi.png")


def check_vocabulary(dataset: Dataset, vocabulary: Vocabulary, checkpoint: Path) -> None:
    """Refuse a dataset whose names are not those that the checkpoint was trained on.

    Raises:
        UserError: says in what they differ.
    """
    for what in ("objects", "verbs", "hois"):
        mine, theirs = getattr(dataset.vocabulary, what), getattr(vocabulary, what)
        if mine == theirs:
            continue
        index = next(
            (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b),
            min(len(mine), len(theirs)),
        )
        first = [values[index] if index < len(values) else "nothing" for values in (mine, theirs)]
        raise UserError(
            f"{dataset.root} has other {what} than {checkpoint} was trained on: {len(mine)} and "
            f"{len(theirs)}, first difference at {index}: {first[0]!r} and {first[1]!r}. "
            "Set data.root to the dataset of the run"
        )


def evaluate_checkpoint(
    source: str | Path,
    overrides: list[str],
    out: Path | None = None,
    console: Console | None = None,
    *,
    detections: str | Path | None = None,
) -> Result | None:
    """`ggnet eval`: metrics of a checkpoint on the test split, shown and written to files.

    Args:
        source: run folder or checkpoint.
        overrides: changes of data, eval and train.device; the network's keys must stay.
        out: where predictions.json, metrics.json, ap_per_class.csv and precision_recall.png go;
            None: beside the checkpoint.
        detections: a file of another detector's boxes (`read_detections`), to be used in place of
            the network's own.

    Returns:
        The metrics on the main process, else None.

    Raises:
        UserError: a broken checkpoint or dataset, or keys that may not change.
    """
    console = console or Console()
    checkpoint = open_checkpoint(source)
    path = checkpoint.path
    config = override(checkpoint.config, overrides)
    check_same_config(checkpoint.config, config, path, {"data", "eval", "train"})
    dataset = load_dataset(config.data.root)
    check_vocabulary(dataset, checkpoint.vocabulary, path)
    records, train_records = dataset.load("test"), dataset.load("train", look_for_images=False)
    with join_workers(config.train.device) as worker:
        predictor = Predictor.of(checkpoint, worker.device, config)
        if detections is not None:
            predictor.use_detections(read_detections(detections, records, dataset.vocabulary))
        predictions = predict_split(predictor, records, worker, console)
        if not worker.is_main:
            return None
    result = score(predictions, records, train_records, dataset, config)
    folder = out or path.parent
    report = write_results(folder, result, predictions, records, dataset.vocabulary)
    report.plot(folder)
    warn_without_roles(dataset)
    if isinstance(result, hico.HicoResult):
        console.print(result.class_table())
    for table in report.tables():
        console.print(table)
    console.print(f"Results in {folder}", soft_wrap=True, highlight=False)
    return result

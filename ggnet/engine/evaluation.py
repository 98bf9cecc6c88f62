"""Running a network over a split and scoring what it finds."""

from pathlib import Path

from rich.console import Console

from ggnet.config import override
from ggnet.data.annotations import Dataset, ImageRecord
from ggnet.data.dataset import make_loader, worker_errors
from ggnet.data.unseen import open_dataset
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import Checkpoint, check_same_config
from ggnet.engine.distributed import Worker, join_workers
from ggnet.engine.inference import Predictor
from ggnet.engine.signals import Interrupted, StopRequest
from ggnet.errors import UserError
from ggnet.eval.detection import read_detections
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.eval.report import Report
from ggnet.eval.score import score, warn_without_roles
from ggnet.progress import progress

RESULTS, PREDICTIONS = "results.csv", "predictions.json"
SELECTION = ("val", "test")  # the splits that the best epoch is chosen by, the first that exists


def selection_split(dataset: Dataset) -> str | None:
    """The split that the best epoch is chosen by, None where the dataset has none for that."""
    return next((name for name in SELECTION if name in dataset.splits), None)


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
        device=worker.device,
    )
    shown = console if console is not None and worker.is_main else Console(quiet=True)
    mine: list[ImagePrediction] = []
    with progress("evaluating batches", shown) as told:
        for number, batch in enumerate(loader, 1):
            if stop is not None and stop.requested and worker.world_size == 1:
                raise Interrupted
            mine += predictor(batch.to(worker.device).images, batch.meta)
            told(number, len(loader))
    shares = worker.gather(mine)
    return sorted((p for share in shares for p in share), key=lambda p: p.image_id)


def write_results(folder: Path, report: Report) -> None:
    """Predictions, metrics, causes of errors and the table of classes into a run folder."""
    write_predictions(folder / PREDICTIONS, report.predictions, report.vocabulary)
    report.write(folder)


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


def find_root(root: str, file: Path, console: Console | None) -> str:
    """A relative data.root as it is, or beside the run where the command runs in another folder.

    Args:
        file: one of the run's, such as its checkpoint.
        console: where it is said that the folder beside the run is used.
    """
    if Path(root).is_absolute() or Path(root).exists():
        return root
    for folder in file.resolve().parents:
        if (folder / root).exists():
            if console is not None:
                text = f"no {root} here; using the one beside the run, {folder / root}"
                console.print(text, soft_wrap=True, highlight=False)
            return str(folder / root)
    return root


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    overrides: list[str],
    out: Path | None = None,
    console: Console | None = None,
    *,
    split: str | None = None,
    detections: str | Path | None = None,
) -> Report | None:
    """Metrics of a checkpoint on a split, written to files.

    Args:
        checkpoint: see `open_checkpoint`.
        overrides: changes of data, eval and train.device; the network's keys must stay.
        out: where predictions.json, metrics.json and ap_per_class.csv go; None: beside the
            checkpoint.
        console: where progress is shown.
        split: of the dataset; None: test, or val without a test.
        detections: a file of another detector's boxes (`read_detections`), to be used in place of
            the network's own.

    Returns:
        The metrics on the main process, else None.

    Raises:
        UserError: a broken dataset, images that are missing without eval.partial, or keys that may
            not change.
    """
    path = checkpoint.path
    config = override(checkpoint.config, overrides)
    check_same_config(checkpoint.config, config, path, {"data", "eval", "train"})
    config.data.root = find_root(config.data.root, path, console)
    dataset = open_dataset(config.data)
    check_vocabulary(dataset, checkpoint.vocabulary, path)
    split = split or dataset.split_to_score
    records, missing = dataset.load_to_score(split, partial=config.eval.partial)
    with join_workers(config.train.device) as worker, worker_errors():
        predictor = Predictor.of(checkpoint, worker.device, config)
        if detections is not None:
            predictor.use_detections(read_detections(detections, records, dataset.vocabulary))
        predictions = predict_split(predictor, records, worker, console)
        if not worker.is_main:
            return None
    warn_without_roles(dataset, split)
    report = score(predictions, dataset, split, config.eval, records, missing)
    write_results(out or path.parent, report)
    return report

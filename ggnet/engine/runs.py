"""Run folders: naming new ones, going on with old ones."""

from pathlib import Path
from typing import Any

from ggnet.config import Config, load_config, override
from ggnet.data.unseen import open_dataset
from ggnet.engine.checkpoint import (
    LAST,
    check_same_config,
    find_checkpoint,
    load_checkpoint,
    saved_config,
)
from ggnet.engine.evaluation import PREDICTIONS, selection_split
from ggnet.errors import UserError
from ggnet.eval.predictions import read_predictions
from ggnet.eval.report import Report
from ggnet.eval.score import score

# What may change when a run goes on: where and how it runs, not what comes out.
RESUMABLE = {
    "data.root",
    "data.workers",
    "train.device",
    "train.batch_size",  # as the number of processes: the trainer looks at images a step
    "train.accumulate",
    "train.checkpoint_minutes",
    "train.checkpoint_steps",
    "train.eval_every",
    "train.loggers",
    "eval",
}


def free_folder(parent: Path, config: str | None) -> Path:
    """A folder that does not exist yet, named after the configuration: train, train-2, ..."""
    name = Path(config).stem if config else "train"
    folder, number = parent / name, 2
    while folder.exists():
        folder, number = parent / f"{name}-{number}", number + 1
    return folder


class FinishedRun(UserError):
    """There is nothing left to train in a run folder."""

    def __init__(self, folder: Path, config: Config):
        super().__init__(
            f"{folder} is finished: all {config.train.epochs} epochs are done. "
            f"`ggnet eval {folder}` shows its metrics"
        )
        self.folder, self.config = folder, config


def resume_run(
    source: str | Path, config: str | None, overrides: list[str]
) -> tuple[Path, Config, dict[str, Any]]:
    """Run folder, configuration and checkpoint to go on with.

    Args:
        source: the run folder, or its last.pt.
        config: what the user believes the run's configuration to be; None: as it was.
        overrides: changes. The number of epochs may change, too, where nothing is scheduled by it.

    Raises:
        FinishedRun: no epoch is left to train.
        UserError: no usable checkpoint; a configuration that differs in what would change results.
    """
    path = find_checkpoint(source, prefer=LAST)
    state = load_checkpoint(path)
    saved = saved_config(state, path)
    wanted = load_config(config, overrides) if config else override(saved, overrides)
    if saved.train.lr_schedule == "step" and not saved.loss.beta_ramp:
        allowed = RESUMABLE | {"train.epochs"}
    else:
        allowed = RESUMABLE
    check_same_config(saved, wanted, path, allowed)
    if state["progress"]["epoch"] >= wanted.train.epochs:
        raise FinishedRun(path.parent, wanted)
    return path.parent, wanted, state


def stored_report(run: Path, config: Config) -> Report | None:
    """The final metrics of a finished run, from its predictions; None where it has no split to
    evaluate.

    Raises:
        UserError: the dataset or the predictions are gone or broken.
    """
    dataset = open_dataset(config.data)
    if (split := selection_split(dataset)) is None:
        return None
    records, missing = dataset.load_to_score(split, partial=config.eval.partial)
    predictions = read_predictions(run / PREDICTIONS, dataset.vocabulary)
    return score(predictions, dataset, split, config.eval, records, missing)

"""Where a run's figures go beside results.csv: TensorBoard, MLflow, Weights & Biases.

A logger is a class in LOGGERS with `Logger`'s methods; its package is imported when it is made, and
only then. `Loggers` is all that a trainer talks to.
"""

import logging
import os
import re
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from ggnet.errors import UserError
from ggnet.io import atomic_write

logger = logging.getLogger(__name__)


class Logger:
    """One place for figures.

    Attributes:
        package, install: what it needs, for Python and for pip.
    """

    package: ClassVar[str]
    install: ClassVar[str]

    def __init__(self, run: Path, settings: dict[str, Any], hidden_from: int | None):
        """
        Args:
            run: the run's folder.
            settings: its configuration, in sections.
            hidden_from: the step from which on an interrupted run's points count no more; None
                for a new run.
        """

    def add(self, values: dict[str, float], step: int) -> None:
        """Write one point of each curve."""
        raise NotImplementedError

    def close(self) -> None:
        """Flush."""
        raise NotImplementedError


class TensorBoard(Logger):
    """Event files in RUN/tensorboard.

    Raises:
        UserError: it cannot write to the folder.
    """

    package = install = "tensorboard"

    def __init__(self, run: Path, settings: dict[str, Any], hidden_from: int | None):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        folder = run / "tensorboard"
        try:
            self._writer = SummaryWriter(str(folder), purge_step=hidden_from)
        except (OSError, UnicodeError) as error:  # it wants names in UTF-8
            raise UserError(
                f"TensorBoard cannot write to {folder} ({error}); choose another folder with --out "
                "or set train.loggers=[]"
            ) from error

    def add(self, values: dict[str, float], step: int) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Logger`."""
        self._writer.close()


class MLflow(Logger):
    """A run of the experiment "ggnet": in RUN/mlflow, or where MLFLOW_TRACKING_URI says.

    A resumed training goes on in its MLflow run.
    """

    package, install = "mlflow", "mlflow"

    def __init__(self, run: Path, settings: dict[str, Any], hidden_from: int | None):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder needs no database
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        self._mlflow = mlflow
        place = os.environ.get("MLFLOW_TRACKING_URI") or (run / "mlflow").resolve().as_uri()
        self._client = mlflow.MlflowClient(place)
        self._id = _stored_id(run, "mlflow") if hidden_from is not None else None
        if self._id is None:
            found = self._client.get_experiment_by_name("ggnet")
            number = found.experiment_id if found else self._client.create_experiment("ggnet")
            self._id = self._client.create_run(number, run_name=run.name).info.run_id
            for name, value in _flat(settings).items():
                self._client.log_param(self._id, name, value)
            _store_id(run, "mlflow", self._id)
        self._client.set_terminated(self._id, "RUNNING")

    def add(self, values: dict[str, float], step: int) -> None:
        """See `Logger`."""
        now = int(1000 * time.time())
        metrics = [
            self._mlflow.entities.Metric(re.sub(r"[^\w\-. /]", "_", name), float(value), now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """See `Logger`."""
        self._client.set_terminated(self._id, "FINISHED")


class WandB(Logger):
    """A run of the project "ggnet" in RUN/wandb, offline (`wandb sync` uploads it) unless
    WANDB_MODE says online.

    A resumed training goes on in its run; points that are there already stay.
    """

    package = install = "wandb"

    def __init__(self, run: Path, settings: dict[str, Any], hidden_from: int | None):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        known = _stored_id(run, "wandb") if hidden_from is not None else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ggnet"),
            name=run.name,
            id=known,
            resume="allow" if known else None,
            dir=str(run),
            config=settings,
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        _store_id(run, "wandb", self._run.id)

    def add(self, values: dict[str, float], step: int) -> None:
        """See `Logger`."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}


def check_installed(names: Iterable[str]) -> None:
    """Whether the packages of these loggers are there.

    Raises:
        UserError: one is missing.
    """
    for name in names:
        spec = find_spec(LOGGERS[name].package)
        if spec is None or spec.origin is None:  # a folder of that name, such as a run's, is none
            raise UserError(
                f"train.loggers has {name}, which is not installed: pip install "
                f"{LOGGERS[name].install}, or leave it out of train.loggers"
            )


class Loggers:
    """Those that are wanted; one that fails on the way is given up with a warning.

    Raises:
        UserError: a logger that cannot begin.
    """

    def __init__(
        self, names: Iterable[str], run: Path, settings: dict[str, Any], hidden_from: int | None
    ):
        self._loggers: dict[str, Logger] = {}
        for name in names:
            try:
                self._loggers[name] = LOGGERS[name](run, settings, hidden_from)
            except UserError:
                raise
            except Exception as error:  # packages have exceptions of their own
                raise UserError(
                    f"{name} cannot log ({_reason(error)}); put that right, or leave it out of "
                    "train.loggers"
                ) from error

    def add(self, values: dict[str, float], step: int) -> None:
        """Write one point of each curve to each logger."""
        for name in list(self._loggers):
            try:
                self._loggers[name].add(values, step)
            except Exception as error:  # a full disk or a server that is gone costs no training
                del self._loggers[name]
                logger.warning("%s gets no more figures: %s", name, _reason(error))

    def close(self) -> None:
        """Flush all."""
        for name, one in self._loggers.items():
            try:
                one.close()
            except Exception as error:  # as in `add`
                logger.warning("%s was not closed: %s", name, _reason(error))


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """section.key -> value."""
    return {
        f"{section}.{key}": value
        for section, values in settings.items()
        for key, value in values.items()
    }


def _id_file(run: Path, name: str) -> Path:
    return run / name / "run_id"


def _stored_id(run: Path, name: str) -> str | None:
    path = _id_file(run, name)
    return path.read_text().strip() if path.exists() else None


def _store_id(run: Path, name: str, id_: str) -> None:
    with atomic_write(_id_file(run, name), "w") as file:
        file.write(f"{id_}\n")

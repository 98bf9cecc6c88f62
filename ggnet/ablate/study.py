"""A study's folder: one budget and dataset for all rows, a run folder for each setting and seed.

    study.json      the budget (the settings that all rows begin from) and the dataset
    TABLE.md, .json, .png   what a table has come to so far
    runs/FINGERPRINT-SEED   a run folder of the trainer, with log.txt and, at its end, result.json

Rows of equal settings, of one table or of several, are one run; rows that differ in their
evaluation alone are trained once. What a run folder is follows from its config.yaml, so that runs
of an older version, which knew fewer settings, are found.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ggnet.ablate.rows import Row, as_overrides, settings_over
from ggnet.config import Config, load_config, override, parse_config
from ggnet.data.annotations import Dataset, read_json
from ggnet.data.unseen import open_dataset
from ggnet.engine.checkpoint import LAST, check_same_config
from ggnet.engine.lock import LOCK
from ggnet.engine.runs import RESUMABLE
from ggnet.engine.trainer import CONFIG
from ggnet.errors import UserError, reader, reading
from ggnet.io import atomic_write

STUDY, RUNS, RESULT = "study.json", "runs", "result.json"
FORMAT, VERSION = "ggnet study", 1
SPLIT = "test"
# What does not change a run's results, or is the run's own.
APART = (RESUMABLE - {"eval"}) | {"train.seed"}


@dataclass(frozen=True)
class Job:
    """One run: a setting and a seed, and the rows that it stands for."""

    folder: Path
    config: Config
    setting: str  # the fingerprint of what it shares with the runs of other seeds
    names: list[str] = field(default_factory=list, compare=False)  # TABLE/ROW

    def named(self, name: str) -> "Job":
        """The same run, as that of a row TABLE/ROW."""
        return replace(self, names=[name])

    @property
    def seed(self) -> int:
        return self.config.train.seed

    def __str__(self) -> str:
        return f"{', '.join(self.names)}, seed {self.seed}"


class Study:
    """A study in a folder.

    Args:
        folder: of this study, or one that does not exist yet or is empty.
        base: the budget; `data.root` is the dataset.

    Raises:
        UserError: the folder holds something else, a study with another budget or of another
            dataset, or a run; the dataset is broken, or has no split to train on or to compare by.
    """

    def __init__(self, folder: Path, base: Config):
        self.folder, self.base = folder, base
        self.dataset = open_dataset(base.data)
        for split in ("train", SPLIT):
            if split not in self.dataset.splits:
                raise UserError(
                    f"{base.data.root} has no split '{split}'; it has "
                    f"{', '.join(self.dataset.splits)}. Rows are trained on 'train' and compared "
                    f"by '{SPLIT}': add it to dataset.json"
                )
        self.data = _hash_of(self.dataset)
        self._check()
        self._folders = self._find_folders()

    def _check(self) -> None:
        path = self.folder / STUDY
        if path.exists():
            _check_same(path, self.base, self.data)
        elif (self.folder / LAST).exists():
            raise UserError(
                f"{self.folder} is the folder of one run; a study needs a folder of its own: "
                "choose another with --out"
            )
        elif self.folder.exists() and (
            not self.folder.is_dir() or any(p.name != LOCK for p in self.folder.iterdir())
        ):
            raise UserError(
                f"{self.folder} holds something that is no study; choose another folder with --out"
            )

    def open(self) -> None:
        """Write down the budget, where that is not done.

        Raises:
            UserError: the folder cannot be written.
        """
        if (self.folder / STUDY).exists():
            return
        values = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.base.model_dump(mode="json"),
            "dataset": {"name": self.dataset.vocabulary.name, "sha256": self.data},
        }
        with atomic_write(self.folder / STUDY, "w") as file:
            file.write(json.dumps(values, indent=1) + "\n")

    def config(self, table: str, row: Row, data: str, flavour: str | None) -> Config:
        """The configuration of a row, with the budget's seed."""
        return override(self.base, as_overrides(settings_over(table, row, data, flavour)))

    def job(self, config: Config, seed: int) -> Job:
        """The run of a configuration with a seed."""
        config, setting = override(config, [f"train.seed={seed}"]), self.fingerprint(config)
        new = self.folder / RUNS / f"{setting}-{seed}"
        return Job(self._folders.setdefault((setting, seed), new), config, setting)

    def _find_folders(self) -> dict[tuple[str, int], Path]:
        """(fingerprint, seed) -> run folder, of those that there are."""
        found: dict[tuple[str, int], Path] = {}
        for path in sorted((self.folder / RUNS).glob(f"*/{CONFIG}")):
            config = load_config(path)
            found.setdefault((self.fingerprint(config), config.train.seed), path.parent)
        return found

    def fingerprint(self, config: Config) -> str:
        """Of everything that decides a run's results but its seed."""
        values = {
            f"{section}.{key}": value
            for section, keys in config.model_dump(mode="json").items()
            for key, value in keys.items()
            if section not in APART and f"{section}.{key}" not in APART
        }
        text = json.dumps([self.data, values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def training(self, config: Config) -> str:
        """Of everything that decides a run's weights but its seed."""
        return self.fingerprint(config.model_copy(update={"eval": self.base.eval}))

    def results(self, config: Config) -> dict[int, dict[str, Any]]:
        """Seed -> what the finished runs of a setting have come to."""
        setting = self.fingerprint(config)
        return {
            seed: read_result(folder / RESULT)
            for (key, seed), folder in sorted(self._folders.items())
            if key == setting and (folder / RESULT).exists()
        }


@reader("the result of a study's run")
def read_result(path: Path) -> dict[str, Any]:
    """A run's result.json: metrics (name -> percent), errors (cause -> count), seconds, memory."""
    values = read_json(path)
    float(values["metrics"]["mAP"])
    float(values["seconds"])
    return values


def merge(jobs: Iterable[Job]) -> list[Job]:
    """Each run once, in the order of their first mention, with the names of all its rows."""
    found: dict[tuple[str, int], Job] = {}
    for job in jobs:
        first = found.setdefault((job.setting, job.seed), job)
        if first is not job:
            first.names.extend(name for name in job.names if name not in first.names)
    return list(found.values())


def is_done(job: Job) -> bool:
    """Whether there is nothing left to do for a run."""
    return (job.folder / RESULT).exists()


def _hash_of(dataset: Dataset) -> str:
    """Of all that describes a dataset but its images' pixels."""
    digest = hashlib.sha256()
    for path in _files(dataset):
        with reading(path, "a file of the dataset"):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(dataset: Dataset) -> Iterator[Path]:
    yield dataset.root / "dataset.json"
    for name in sorted(dataset.splits):
        split = dataset.splits[name]
        yield split.annotations
        if split.roles is not None:
            yield split.roles


@reader("a study's study.json")
def _check_same(path: Path, base: Config, data: str) -> None:
    """Refuse to mix budgets or datasets in one folder."""
    values = read_json(path)
    saved = parse_config(values["settings"], str(path))
    allowed = APART - {"train.seed"}
    check_same_config(saved, base, path, allowed)
    if values["dataset"]["sha256"] != data:
        raise UserError(
            f"{path} is of another dataset (or of another version of it) than {base.data.root}: "
            "its results cannot be compared. Choose another folder with --out"
        )

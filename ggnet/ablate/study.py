"""A study's folder: one budget and dataset for all rows, a run folder for each setting and seed.

    study.json      the budget (the settings that all rows begin from) and the dataset
    TABLE.md, .json, .png   what a table has come to so far
    runs/FINGERPRINT-SEED   a run folder of the trainer, with log.txt and, at its end, result.json;
                            detections.sha256 where it is scored with another detector's boxes

Rows of equal settings, of one table or of several, are one run; rows that differ in their
evaluation alone are trained once. What a run folder is follows from its config.yaml, so that runs
of an older version, which knew fewer settings, are found.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ggnet.ablate.rows import Row, as_overrides, settings_over
from ggnet.ablate.tables import TABLES
from ggnet.config import Config, load_config, override, parse_config
from ggnet.data.annotations import Dataset, read_json
from ggnet.data.unseen import open_dataset
from ggnet.engine.checkpoint import LAST, check_same_config
from ggnet.engine.lock import LOCK
from ggnet.engine.runs import RESUMABLE
from ggnet.engine.trainer import CONFIG
from ggnet.errors import UserError, reader, reading
from ggnet.eval.detection import read_detections
from ggnet.eval.errors import CAUSES
from ggnet.io import atomic_write

STUDY, RUNS, RESULT, DETECTIONS = "study.json", "runs", "result.json", "detections.sha256"
FORMAT, VERSION = "ggnet study", 1
SPLIT = "test"
NUMBERS = ("images", "seconds", "memory")  # of a result, besides its metrics and errors
# What does not change a run's results, or is the run's own.
APART = (RESUMABLE - {"eval"}) | {"train.seed"}


@dataclass(frozen=True)
class Boxes:
    """A file of another detector's boxes on the split `test`."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Job:
    """One run: a setting and a seed, and the rows that it stands for."""

    folder: Path
    config: Config
    setting: str  # the fingerprint of what it shares with the runs of other seeds
    training: str  # of what decides its weights, but for the seed
    boxes: Boxes | None = None  # to be scored with
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
        detections: another detector's boxes on the split `test`, for the rows that are about them.

    Raises:
        UserError: the folder holds something else, a study with another budget or of another
            dataset, or a run; the dataset is broken, or has no split to train on or to compare by;
            the boxes are broken.
    """

    def __init__(self, folder: Path, base: Config, detections: Path | None = None):
        self.folder, self.base = folder, base
        self.dataset = open_dataset(base.data)
        for split in ("train", SPLIT):
            if split not in self.dataset.splits:
                raise UserError(
                    f"{base.data.root} has no split '{split}'; it has "
                    f"{', '.join(self.dataset.splits)}. Rows are trained on 'train' and compared "
                    f"by '{SPLIT}': add it to dataset.json"
                )
        self.data = _hash_of_dataset(self.dataset)
        self._check()
        self.boxes = None if detections is None else self._read_boxes(detections)
        self._folders = self._find_folders()
        self._taken: dict[tuple[str, int], tuple[Job, dict[str, Any]]] = {}

    def _check(self) -> None:
        path = self.folder / STUDY
        if path.exists():
            _check_same_study(path, self)
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

    def _read_boxes(self, path: Path) -> Boxes:
        records, _ = self.dataset.load_to_score(SPLIT, partial=self.base.eval.partial)
        read_detections(path, records, self.dataset.vocabulary)
        return Boxes(path, hash_of(path))

    def check_same(self, path: Path, settings: dict[str, Any], dataset: dict[str, Any]) -> None:
        """Refuse to mix budgets or datasets.

        Args:
            path: where the other budget and dataset come from.

        Raises:
            UserError: another budget or dataset.
        """
        saved = parse_config(settings, str(path))
        of_rows = set.intersection(*(table.keys for table in TABLES.values()))
        allowed = (APART | of_rows) - {"train.seed"}
        check_same_config(saved, self.base, path, allowed)
        if dataset["sha256"] != self.data:
            raise UserError(
                f"{path} is of another dataset (or of another version of it) than "
                f"{self.base.data.root}: their results cannot be compared. A study of its own, in "
                "another folder (--out), can have that one"
            )

    def open(self) -> None:
        """Write down the budget, where that is not done, and the results that were taken.

        Raises:
            UserError: the folder cannot be written.
        """
        if not (self.folder / STUDY).exists():
            self._write_budget()
        for job, result in self._taken.values():
            write_config(job)
            write_result(job.folder, result)

    def _write_budget(self) -> None:
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

    def job(self, config: Config, seed: int, *, other_boxes: bool = False) -> Job:
        """The run of a configuration with a seed; with the other detector's boxes if asked to."""
        setting = self.setting(config, other_boxes=other_boxes)
        new = self.folder / RUNS / f"{setting}-{seed}"
        return Job(
            self._folders.setdefault((setting, seed), new),
            override(config, [f"train.seed={seed}"]),
            setting,
            self._training(config),
            self.boxes if other_boxes else None,
        )

    def _find_folders(self) -> dict[tuple[str, int], Path]:
        """(fingerprint, seed) -> run folder, of those that there are."""
        found: dict[tuple[str, int], Path] = {}
        for path in sorted((self.folder / RUNS).glob(f"*/{CONFIG}")):
            config, boxes = load_config(path), hash_of_boxes(path.parent)
            found.setdefault((self._fingerprint(config, boxes), config.train.seed), path.parent)
        return found

    def setting(self, config: Config, *, other_boxes: bool = False) -> str:
        """The fingerprint of everything that decides a run's results but its seed."""
        return self._fingerprint(config, self.boxes.sha256 if other_boxes else None)

    def trained(self) -> set[tuple[str, int]]:
        """`Job.training` and seed of the finished runs whose weights are here."""
        return {
            (self._training(load_config(folder / CONFIG)), seed)
            for (_, seed), folder in self._folders.items()
            if (folder / RESULT).exists() and (folder / LAST).exists()
        }

    def _training(self, config: Config) -> str:
        return self._fingerprint(config.model_copy(update={"eval": self.base.eval}))

    def _fingerprint(self, config: Config, boxes: str | None = None) -> str:
        values = {
            f"{section}.{key}": value
            for section, keys in config.model_dump(mode="json").items()
            for key, value in keys.items()
            if section not in APART and f"{section}.{key}" not in APART
        }
        text = json.dumps([self.data, values, *([boxes] if boxes else [])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def results(self, setting: str) -> dict[int, dict[str, Any]]:
        """Seed -> what the finished runs of a setting have come to, and their `folder` in it."""
        found = {}
        for (key, seed), folder in sorted(self._folders.items()):
            if key != setting:
                continue
            if (key, seed) in self._taken:
                _, result = self._taken[key, seed]
            elif (folder / RESULT).exists():
                result = read_result(folder / RESULT)
            else:
                continue
            found[seed] = {"folder": f"{RUNS}/{folder.name}", **result}
        return found

    def take(self, job: Job, result: dict[str, Any]) -> None:
        """Let a run be done, with another study's result; `open` writes it down.

        What is here of that run already, its result or a checkpoint, stays.
        """
        if not any((job.folder / name).exists() for name in (RESULT, LAST)):
            self._taken.setdefault((job.setting, job.seed), (job, result))

    def is_done(self, job: Job) -> bool:
        """Whether there is nothing left to do for a run."""
        return (job.setting, job.seed) in self._taken or (job.folder / RESULT).exists()


@reader("the result of a study's run")
def read_result(path: Path) -> dict[str, Any]:
    """A run's result.json; see `checked_result`."""
    return checked_result(read_json(path))


def checked_result(values: dict[str, Any]) -> dict[str, Any]:
    """A run's result, unchanged: metrics (name -> percent), errors (cause -> count), seconds, bytes
    of memory, images, machine.

    Raises:
        Exception: something is not there, or not a number.
    """
    numbers = [*values["metrics"].values(), *(values["errors"][cause] for cause in CAUSES)]
    for number in (*numbers, values["metrics"]["mAP"], *(values[key] for key in NUMBERS)):
        if not math.isfinite(number):
            raise ValueError(f"{number} is not finite")
    if not isinstance(values["machine"], str):
        raise TypeError(f"machine: {values['machine']!r} is not a name")
    return values


def write_result(folder: Path, values: dict[str, Any]) -> None:
    """Write a run's result.json."""
    with atomic_write(folder / RESULT, "w") as file:
        file.write(json.dumps(values, indent=1) + "\n")


def write_config(job: Job) -> None:
    """Leave a run's settings where the trainer leaves them, unless it has, and whose boxes it has.

    Raises:
        UserError: the folder cannot be written.
    """
    path = job.folder / CONFIG
    if not path.exists():
        if job.boxes:
            with atomic_write(job.folder / DETECTIONS, "w") as file:
                file.write(f"{job.boxes.sha256}  {job.boxes.path.name}\n")
        with atomic_write(path, "w") as file:
            yaml.safe_dump(job.config.model_dump(mode="json"), file, sort_keys=False)


def merge(jobs: Iterable[Job]) -> list[Job]:
    """Each run once, in the order of their first mention, with the names of all its rows."""
    found: dict[tuple[str, int], Job] = {}
    for job in jobs:
        first = found.setdefault((job.setting, job.seed), job)
        if first is not job:
            first.names.extend(name for name in job.names if name not in first.names)
    return list(found.values())


def hash_of_boxes(folder: Path) -> str | None:
    """The SHA-256 of the boxes that a run folder is scored with, unless they are its own."""
    path = folder / DETECTIONS
    if not path.exists():
        return None
    with reading(path, "the SHA-256 of a file of boxes"):
        return path.read_text(encoding="utf-8").split()[0]


def hash_of(path: Path) -> str:
    """A file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of_dataset(dataset: Dataset) -> str:
    """Of all that describes a dataset but its images' pixels."""
    digest = hashlib.sha256()
    for path in _files(dataset):
        with reading(path, "a file of the dataset"):
            digest.update(bytes.fromhex(hash_of(path)))
    return digest.hexdigest()


def _files(dataset: Dataset) -> Iterator[Path]:
    yield dataset.root / "dataset.json"
    for name in sorted(dataset.splits):
        split = dataset.splits[name]
        yield split.annotations
        if split.roles is not None:
            yield split.roles


@reader("a study's study.json")
def _check_same_study(path: Path, study: Study) -> None:
    values = read_json(path)
    study.check_same(path, values["settings"], values["dataset"])

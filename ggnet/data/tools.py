"""Looking at a dataset before training on it: what is wrong with it, what is in it."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.table import Table

from ggnet.cores import usable_cores
from ggnet.data.annotations import ImageRecord, hoi_counts, load_dataset, read_records
from ggnet.data.box_units import fit_unturned
from ggnet.data.duplicates import first_of_each
from ggnet.data.images import read_image
from ggnet.data.problems import Problems
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError

IN_PROCESS = 64  # so few images are read faster here than by helpers that must start first


@dataclass
class Verification:
    """What `verify_dataset` found."""

    problems: Problems = field(default_factory=Problems)
    counts: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    # split -> usable images, boxes, those of them that repeat another, pairs

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not len(self.problems)

    def table(self) -> Table:
        """What is usable, as a rich table; the problems have their own (`problems.table()`)."""
        table = Table(title="usable")
        for name in ("split", "images", "boxes", "repeated boxes", "pairs"):
            table.add_column(name, justify="left" if name == "split" else "right")
        for split, figures in self.counts.items():
            table.add_row(split, *(f"{figure:,}" for figure in figures))
        return table


def verify_dataset(
    root: str | Path,
    *,
    read_images: bool = True,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a dataset folder record by record and, unless told not to, decode every image.

    Args:
        workers: processes that decode; default: as many as there are cores.
        progress: called with (images decoded, images in all).

    Raises:
        UserError: `dataset.json` itself is missing or broken.
    """
    dataset = load_dataset(root)
    result = Verification()
    to_read: list[ImageRecord] = []
    for name, split in dataset.splits.items():
        images = split.images
        if not os.path.isdir(images):
            result.problems.add("no image folder", split.annotations, f"split {name}", f"{images}")
            images = None
        try:
            records = read_records(split.annotations, images, dataset.vocabulary, result.problems)
        except UserError as error:
            result.problems.add("split unusable", split.annotations, f"split {name}", str(error))
            continue
        if images is not None:
            to_read += records
        result.counts[name] = (
            len(records),
            sum(len(record.boxes) for record in records),
            repeated_boxes(records),
            sum(len(record.pairs) for record in records),
        )
    if read_images:
        _check_images(to_read, result.problems, workers or usable_cores(), progress)
    return result


def _check_images(
    records: list[ImageRecord],
    problems: Problems,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    paths = [record.path for record in records]
    for done, (record, size) in enumerate(zip(records, _sizes(paths, workers), strict=True), 1):
        if isinstance(size, str):
            problems.add("unreadable image", record.path, "", size)
        else:
            _check_inside(record, *size, problems)
        if progress is not None:
            progress(done, len(records))


def _check_inside(record: ImageRecord, width: int, height: int, problems: Problems) -> None:
    """Note boxes without a pixel of the image, and those of the image before it was turned."""
    if fit_unturned(record.boxes[:, 2:], np.array([width, height]), record.path):
        got = f"boxes reach beyond {width}x{height}, all fit {height}x{width}"
        problems.add("boxes of the unturned image", record.path, "", got)
        return
    for number, (x1, y1, x2, y2) in enumerate(record.boxes.tolist()):
        if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
            got = f"bbox [{x1:g}, {y1:g}, {x2:g}, {y2:g}] in an image of {width}x{height}"
            problems.add("box outside the image", record.path, f"box {number}", got)


def _sizes(paths: list[Path], workers: int) -> Iterable[tuple[int, int] | str]:
    if workers == 1 or len(paths) <= IN_PROCESS:
        yield from map(_size, paths)
        return
    with ProcessPoolExecutor(workers, get_context("forkserver")) as pool:
        yield from pool.map(_size, paths, chunksize=16)


def _size(path: Path) -> tuple[int, int] | str:
    """Width and height of a decoded image, or what is wrong with it."""
    try:
        height, width = read_image(path).shape[:2]
    except UserError as error:
        return str(error)
    return width, height


@dataclass(eq=False)
class Statistics:
    """How often things occur in a split."""

    vocabulary: Vocabulary
    images: int
    objects: np.ndarray  # (objects,) boxes
    repeated: int  # boxes of the same thing as another, see `ggnet.data.duplicates`
    verbs: np.ndarray  # (verbs,) pairs
    hois: np.ndarray  # (HOIs,) pairs
    pairs_per_image: np.ndarray  # (images,)
    verbs_per_pair: float  # of the same two boxes

    def table(self, rare: np.ndarray | None = None) -> Table:
        """Totals as a rich table.

        Args:
            rare: (HOIs,) bool, the dataset's rare HOIs; None: not known.
        """
        table = Table(title=f"{self.vocabulary.name}: what is in it")
        table.add_column("")
        table.add_column("number", justify="right")
        seen = int((self.hois > 0).sum())
        rows = [
            ("images", f"{self.images:,}"),
            ("boxes", f"{self.objects.sum():,}"),
            ("boxes that repeat another", f"{self.repeated:,}"),
            ("pairs", f"{self.verbs.sum():,}"),
            ("pairs per image, mean and most", self._pairs_text()),
            ("verbs per pair of boxes", f"{self.verbs_per_pair:.2f}"),
            ("HOIs that occur", f"{seen} of {len(self.hois)}"),
        ]
        if rare is not None:
            occurring = int(((self.hois > 0) & rare).sum())
            rows.append(("of them rare in training", f"{occurring} of {rare.sum()}"))
        for name, figure in rows:
            table.add_row(name, figure)
        return table

    def _pairs_text(self) -> str:
        if not self.images:
            return "0"
        return f"{self.pairs_per_image.mean():.2f}, {self.pairs_per_image.max()}"

    def frequency_table(self, kind: str, most: int = 20) -> Table:
        """The most frequent "objects", "verbs" or "hois" as a rich table."""
        counts, names = getattr(self, kind), self.names(kind)
        table = Table(title=f"{kind}, the {min(most, len(counts))} most frequent")
        table.add_column("name")
        table.add_column("number", justify="right")
        for index in np.argsort(-counts, kind="stable")[:most]:
            table.add_row(names[index], f"{counts[index]:,}")
        return table

    def names(self, kind: str) -> list[str]:
        """The names that belong to the counts of "objects", "verbs" or "hois"."""
        if kind == "hois":
            return [self.vocabulary.hoi_name(hoi) for hoi in range(len(self.hois))]
        return list(getattr(self.vocabulary, kind))


def repeated_boxes(records: Iterable[ImageRecord]) -> int:
    """How many boxes are of the same thing as one before them in their image."""
    return sum(
        int((first_of_each(r.boxes, r.labels, r.pairs) != np.arange(len(r.boxes))).sum())
        for r in records
    )


def dataset_statistics(records: list[ImageRecord], vocabulary: Vocabulary) -> Statistics:
    """Count objects, verbs and HOIs; `ggnet.viz.frequencies` draws them."""
    labels = [record.labels for record in records]
    pairs = [record.pairs for record in records]
    box_pairs = sum(len(np.unique(rows[:, :2], axis=0)) for rows in pairs if len(rows))
    return Statistics(
        vocabulary,
        len(records),
        np.bincount(np.concatenate([*labels, []]).astype(int), minlength=len(vocabulary.objects)),
        repeated_boxes(records),
        np.bincount(
            np.concatenate([*(rows[:, 2] for rows in pairs), []]).astype(int),
            minlength=len(vocabulary.verbs),
        ),
        hoi_counts(records, vocabulary),
        np.array([len(rows) for rows in pairs]),
        sum(len(rows) for rows in pairs) / max(box_pairs, 1),
    )

"""All that an evaluation says: the HOI metric, the boxes' AP, and why triplets are wrong."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.table import Table

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.curve import Curve
from ggnet.eval.detection import DetectionResult, evaluate_detection
from ggnet.eval.errors import ErrorBreakdown, error_breakdown
from ggnet.eval.f1 import F1Curve, f1_curve
from ggnet.eval.hico import HoiAP
from ggnet.eval.predictions import ImagePrediction
from ggnet.io import atomic_write

METRICS, CLASSES = "metrics.json", "ap_per_class.csv"


class Result(Protocol):
    """What every HOI metric gives (`HicoResult`, `VcocoResult`), in percent."""

    def headline(self) -> dict[str, float]:
        """The means to watch over epochs; "mAP", the first, decides which checkpoint is the best.
        Those that do not exist are left out."""

    def table(self) -> Table:
        """The means as a rich table."""

    def class_table(self) -> Table:
        """Every class as a rich table, best first."""

    def named_curves(self) -> dict[str, Curve]:
        """Class -> precision over recall; the most frequent ones."""

    def hoi_ap(self) -> HoiAP | None:
        """AP by HOI; None where the classes are no HOIs."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""

    def to_csv(self, path: str | Path) -> None:
        """Write one row for each class."""


@dataclass(eq=False)
class Report:
    """The metrics of one set of predictions. What is not asked for is not computed.

    The caller draws: `result.named_curves()` and `result.hoi_ap()` are what plots are made of.
    """

    result: Result
    vocabulary: Vocabulary
    records: Sequence[ImageRecord]
    predictions: Sequence[ImagePrediction] | None  # None: a V-COCO pickle, which has no triplets
    split: str
    missing_images: int = 0  # of the split, whose annotations count nowhere
    train_counts: np.ndarray | None = None  # (HOIs,) training instances, where that is known

    @cached_property
    def detection(self) -> DetectionResult | None:
        """AP of the detected boxes; None where the predictions come without them."""
        found = [p.detections for p in self.predictions or () if p.detections is not None]
        return evaluate_detection(found, self.records, self.vocabulary) if found else None

    @cached_property
    def errors(self) -> ErrorBreakdown | None:
        """Why triplets are wrong; None without triplets."""
        if self.predictions is None:
            return None
        return error_breakdown(self.predictions, self.records, self.vocabulary)

    @cached_property
    def f1(self) -> F1Curve | None:
        """Precision, recall and F1 by score; None without triplets."""
        if self.predictions is None:
            return None
        return f1_curve(self.predictions, self.records, self.vocabulary)

    def tables(self) -> list[Table]:
        """What to show, the HOI metric last."""
        parts = (self.errors, self.detection, self.result)
        return [part.table() for part in parts if part is not None]

    def to_dict(self) -> dict[str, Any]:
        """The HOI metric's values, `split`, `missing_images`, `object_detection`, `errors` and
        `best_f1`; plain values."""
        values = self.result.to_dict()
        values |= {"split": self.split, "missing_images": self.missing_images}
        if self.detection is not None:
            values["object_detection"] = self.detection.to_dict()
        if self.errors is not None:
            values["errors"] = self.errors.to_dict()
        if self.f1 is not None:
            values["best_f1"] = self.f1.best()
        return values

    def write(self, folder: Path) -> None:
        """metrics.json and ap_per_class.csv.

        Raises:
            UserError: a file cannot be written.
        """
        with atomic_write(folder / METRICS, "w") as file:
            file.write(json.dumps(self.to_dict(), indent=1) + "\n")
        self.result.to_csv(folder / CLASSES)

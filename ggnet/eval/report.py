"""All that an evaluation says: the HOI metric, the boxes' AP, and why detections are wrong."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.detection import DetectionResult, evaluate_detection
from ggnet.eval.errors import ErrorBreakdown, error_breakdown
from ggnet.eval.hico import HicoResult
from ggnet.eval.predictions import ImagePrediction
from ggnet.eval.vcoco import VcocoResult
from ggnet.io import atomic_write

METRICS, CLASSES, CURVES = "metrics.json", "ap_per_class.csv", "precision_recall.png"
PLOTTED = 30  # HOIs with most annotated pairs

Result = HicoResult | VcocoResult


@dataclass(eq=False)
class Report:
    """The metrics of one set of predictions."""

    result: Result
    detection: DetectionResult | None  # None: the predictions come without detected boxes
    errors: ErrorBreakdown | None  # None: they are a V-COCO pickle, which has no triplets

    def tables(self) -> list[Table]:
        """What to show, the HOI metric last."""
        parts = (self.errors, self.detection, self.result)
        return [part.table() for part in parts if part is not None]

    def to_dict(self) -> dict[str, Any]:
        """The HOI metric's values, `object_detection` and `errors`; plain values."""
        values = self.result.to_dict()
        if self.detection is not None:
            values["object_detection"] = self.detection.to_dict()
        if self.errors is not None:
            values["errors"] = self.errors.to_dict()
        return values

    def write(self, folder: Path) -> None:
        """metrics.json and ap_per_class.csv.

        Raises:
            UserError: a file cannot be written.
        """
        with atomic_write(folder / METRICS, "w") as file:
            file.write(json.dumps(self.to_dict(), indent=1) + "\n")
        self.result.to_csv(folder / CLASSES)

    def plot(self, folder: Path) -> None:
        """precision_recall.png: V-COCO's roles, or the most frequent HOIs.

        Raises:
            UserError: the file cannot be written.
        """
        from ggnet.viz.precision_recall import plot_precision_recall  # matplotlib is slow to import

        curves = self.result.curves
        if isinstance(self.result, HicoResult):
            pairs = self.result.ground_truth
            frequent = np.argsort(-pairs, kind="stable")[:PLOTTED].tolist()
            name = self.result.vocabulary.hoi_name
            curves = {name(hoi): self.result.curves[hoi] for hoi in frequent if pairs[hoi]}
        if curves:
            plot_precision_recall(curves, folder / CURVES)


def make_report(
    result: Result,
    predictions: Sequence[ImagePrediction],
    records: Sequence[ImageRecord],
    vocabulary: Vocabulary,
) -> Report:
    """The metric `result` of `predictions`, with the AP of their boxes and the causes of errors."""
    found = [p.detections for p in predictions if p.detections is not None]
    return Report(
        result,
        evaluate_detection(found, records, vocabulary) if found else None,
        error_breakdown(predictions, records, vocabulary),
    )

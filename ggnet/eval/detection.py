"""Object-detection AP of the detection branch, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.table import Table

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError


@dataclass(eq=False)
class ImageDetections:
    """The n detected boxes of one image."""

    image_id: str
    boxes: np.ndarray  # (n, 4) float32 edges in original pixels
    labels: np.ndarray  # (n,) int64 object index
    scores: np.ndarray  # (n,) float32


@dataclass(eq=False)
class DetectionResult:
    """COCO's average precision in percent."""

    ap: float  # mean over IoU 0.5 to 0.95
    ap50: float
    ap75: float
    class_ap: dict[str, float]  # object -> AP over IoU 0.5 to 0.95; NaN without ground truth

    def table(self) -> Table:
        """The means as a rich table."""
        table = Table(title="Object detection, COCO AP")
        for name in ("AP", "AP50", "AP75", "person AP"):
            table.add_column(name, justify="right")
        person = next(iter(self.class_ap.values()))
        figures = (self.ap, self.ap50, self.ap75, person)
        table.add_row(*(f"{value:.2f}" for value in figures))
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        values = {"AP": self.ap, "AP50": self.ap50, "AP75": self.ap75}
        return {
            "metric": "COCO AP",
            **{name: _plain(value) for name, value in values.items()},
            "classes": {name: _plain(value) for name, value in self.class_ap.items()},
        }


def evaluate_detection(
    found: Sequence[ImageDetections], records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> DetectionResult:
    """COCO AP of detected boxes against the annotated ones; at most 100 boxes an image count.

    HOI datasets annotate the boxes of pairs and often no others, so a correct box of a bystander
    counts as an error: compare such figures with each other, not with COCO's.

    Raises:
        UserError: detections of an image that is not in `records`.
    """
    numbers = {record.image_id: number for number, record in enumerate(records, 1)}
    for image in found:
        if image.image_id not in numbers:
            raise UserError(f"image {image.image_id} has detections but is not in the annotations")
    truth = COCO()
    annotations = [
        {"image_id": numbers[record.image_id], "category_id": int(label) + 1, "iscrowd": 0, **box}
        for record in records
        for label, box in zip(record.labels, _coco_boxes(record.boxes), strict=True)
    ]
    truth.dataset = {
        "images": [{"id": number} for number in numbers.values()],
        "categories": [
            {"id": index, "name": name} for index, name in enumerate(vocabulary.objects, 1)
        ],
        "annotations": [{"id": id_, **row} for id_, row in enumerate(annotations, 1)],
    }
    detections = [
        {
            "image_id": numbers[image.image_id],
            "category_id": int(label) + 1,
            "score": float(score),
            "bbox": box["bbox"],
        }
        for image in found
        for label, score, box in zip(
            image.labels, image.scores, _coco_boxes(image.boxes), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections) if detections else COCO(), "bbox")
        evaluation.params.imgIds = list(numbers.values())
        evaluation.params.catIds = list(range(1, len(vocabulary.objects) + 1))
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][
        :, :, :, 0, -1
    ]  # (IoUs, recalls, classes); -1: no truth
    return DetectionResult(
        ap=_mean(precision),
        ap50=_mean(precision[0]),
        ap75=_mean(precision[5]),
        class_ap={
            name: _mean(precision[:, :, index]) for index, name in enumerate(vocabulary.objects)
        },
    )


def _coco_boxes(boxes: np.ndarray) -> list[dict[str, Any]]:
    corners = boxes.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    return [
        {"bbox": [*corner[:2], *side], "area": side[0] * side[1]}
        for corner, side in zip(corners.tolist(), sides.tolist(), strict=True)
    ]


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(100 * known.mean()) if known.size else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value

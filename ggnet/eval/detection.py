"""Detected boxes: their AP by pycocotools, and files of another detector's."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.table import Table

from ggnet.data.annotations import ImageRecord, counts_from_zero, ids_text, read_json
from ggnet.data.box_units import SAMPLE, check_pixels, check_size
from ggnet.data.images import image_size
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader
from ggnet.eval.predictions import ImageDetections, whole

MAX_EDGE = 1e7  # pixels; no image is so large


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
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
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


@reader("COCO's format for results")
def read_detections(
    path: str | Path, records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> dict[str, ImageDetections]:
    """Image id -> boxes of another detector, from COCO's format for results.

    A JSON list of {"image_id": 7, "category_id": 18, "bbox": [x, y, width, height], "score": 0.9},
    in pixels of the original images. image_id is the dataset's, or the file name; category_id is
    the dataset's id of the object. Images without an entry have no boxes.

    Raises:
        UserError: not such a file, an entry that is broken or of an unknown image or object, or no
            entry at all.
    """
    entries = read_json(Path(path))
    if isinstance(entries, dict) and "annotations" in entries:
        raise UserError(
            f"{path} is in COCO's format for annotations; expected its format for results: the "
            "list alone, each entry with a score"
        )
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} has no list of boxes; expected COCO's format for results")
    images = {record.file_name: record.image_id for record in records}
    images |= {record.image_id: record.image_id for record in records}
    objects = {id_: index for index, id_ in enumerate(vocabulary.object_ids)}
    found: dict[str, list[tuple]] = {record.image_id: [] for record in records}
    for number, entry in enumerate(entries):
        try:
            x, y, width, height = (float(value) for value in entry["bbox"])
            score, label = float(entry["score"]), objects[whole(entry["category_id"])]
            image = images[str(entry["image_id"])]
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            problem = f"unknown or missing {error}" if isinstance(error, KeyError) else str(error)
            problem += _remedy(entries, images, vocabulary)
            raise UserError(
                f"{path}, entry {number}: {problem}; expected image_id of an annotated image, "
                f"category_id of '{vocabulary.name}', bbox [x, y, width, height] and score"
            ) from None
        if not ((np.abs([x, y, width, height]) < MAX_EDGE).all() and min(width, height) >= 0):
            raise UserError(f"{path}, entry {number}: bbox {entry['bbox']} is not a box")
        if not 0 < np.float32(score) <= 1:
            raise UserError(f"{path}, entry {number}: score {score}; expected above 0, at most 1")
        found[image].append((x, y, x + width, y + height, label, score))
    _check_boxes(Path(path), found, {record.image_id: record.path for record in records})
    return {image: _columns(image, rows) for image, rows in found.items()}


def _remedy(entries: list, images: dict[str, str], vocabulary: Vocabulary) -> str:
    """What is wrong with the ids of all entries alike, if that is what it is."""
    rows = [entry for entry in entries if isinstance(entry, dict)]
    categories = {row.get("category_id") for row in rows if type(row.get("category_id")) is int}
    if counts_from_zero(categories, vocabulary.object_ids):
        first = ids_text(vocabulary.object_ids)
        return f" (its category ids begin at 0, those of the dataset are {first}: map them)"
    if not any(str(row.get("image_id")) in images for row in rows):
        return (
            f" (none of its image ids is the dataset's, which has such as {next(iter(images))!r})"
        )
    return ""


def _check_boxes(path: Path, found: dict[str, list[tuple]], paths: dict[str, Path]) -> None:
    """Refuse boxes that are fractions, corners given as x, y, width, height, or of other images."""
    boxes = np.array([row[:4] for rows in found.values() for row in rows])
    ends, beyond = [], None  # a box beyond its image
    for image, rows in found.items():
        if rows and len(ends) < SAMPLE and paths[image] is not None and paths[image].is_file():
            edges = np.array([row[2:4] for row in rows])
            size = np.array(image_size(paths[image]), dtype=np.float64)
            ends.append((edges, size))
            outside = (edges > size + 1).any(axis=1)
            if beyond is None and outside.any():
                beyond = rows[int(np.argmax(outside))][:4], paths[image].name, size
    try:
        check_pixels(np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]))
        # Corners taken for sides reach beyond twice their left and upper edge, some also beyond
        # their image.
        if beyond is not None and (boxes[:, 2:] > 2 * boxes[:, :2]).all():
            (x1, y1, x2, y2), name, size = beyond
            raise UserError(
                f"bbox [{x1:g}, {y1:g}, {x2 - x1:g}, {y2 - y1:g}] reaches beyond its image "
                f"({name}, {size[0]:g}x{size[1]:g}), and all boxes would be right as corners; "
                "expected [x, y, width, height]"
            )
        check_size(ends)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _columns(image_id: str, rows: list[tuple]) -> ImageDetections:
    values = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return ImageDetections(
        image_id,
        values[:, :4].astype(np.float32),
        values[:, 4].astype(np.int64),
        values[:, 5].astype(np.float32),
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

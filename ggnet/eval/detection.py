"""Detected boxes: their COCO AP, and files of another detector's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ggnet.data.annotations import ImageRecord, counts_from_zero, ids_text, read_json
from ggnet.data.box_units import SAMPLE, check_pixels, check_size
from ggnet.data.images import image_size
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader
from ggnet.eval.coco_ap import precision_curves
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
    """COCO AP of detected boxes against the annotated ones; 100 of an image and a class count.

    HOI datasets annotate the boxes of pairs and often no others, so a correct box of a bystander
    counts as an error: compare such figures with each other, not with COCO's.

    Raises:
        UserError: detections of an image that is not in `records`.
    """
    known = {record.image_id for record in records}
    for image in found:
        if image.image_id not in known:
            raise UserError(f"image {image.image_id} has detections but is not in the annotations")
    precision = precision_curves(found, records, len(vocabulary.objects))
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
        found = "is an empty list" if entries == [] else "has no list of boxes"
        raise UserError(f"{path} {found}; expected boxes in COCO's format for results")
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


def _mean(precision: np.ndarray) -> float:
    known = precision[precision > -1]
    return float(100 * known.mean()) if known.size else float("nan")


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value

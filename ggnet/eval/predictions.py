"""Predicted triplets of images, and the JSON file that holds them.

    {"format": "ggnet predictions", "version": 1, "vocabulary": {...},
     "images": [{"image_id": "7", "file_name": "a.jpg",
                 "objects": [{"box": [x1, y1, x2, y2], "label": "person"}, ...],
                 "interactions": [{"human": 0, "object": 1, "verb": "ride", "score": 0.93}, ...]}]}

Boxes are edges in pixels of the original image, 0-based; human and object count `objects`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import read_json
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.io import atomic_write

FORMAT, VERSION = "ggnet predictions", 1


@dataclass(eq=False)
class ImagePrediction:
    """The n triplets of one image, labels and verbs as contiguous indices."""

    image_id: str
    file_name: str
    human_boxes: np.ndarray  # (n, 4) float32 [x1, y1, x2, y2], edges in original pixels
    object_boxes: np.ndarray  # (n, 4) float32
    object_labels: np.ndarray  # (n,) int64
    verbs: np.ndarray  # (n,) int64
    scores: np.ndarray  # (n,) float32

    def __post_init__(self):
        count = len(self.scores)
        for name, shape in (
            ("human_boxes", (count, 4)),
            ("object_boxes", (count, 4)),
            ("object_labels", (count,)),
            ("verbs", (count,)),
            ("scores", (count,)),
        ):
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} of image {self.image_id} has shape {getattr(self, name).shape}; "
                    f"expected {shape}, as there are {count} scores"
                )

    def __len__(self) -> int:
        """The number of triplets."""
        return len(self.scores)

    def to_dict(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """One entry of the file's `images`; each box once, float32 values exactly."""
        zeros = np.zeros(len(self), dtype=np.float32)
        people = np.column_stack([self.human_boxes, zeros])
        things = np.column_stack([self.object_boxes, self.object_labels])
        rows = np.concatenate([people, things]).astype(np.float32)
        unique, where = np.unique(rows, axis=0, return_inverse=True)
        human, object_ = where.reshape(2, -1).tolist()
        return {
            "image_id": self.image_id,
            "file_name": self.file_name,
            "objects": [
                {"box": [_short(x) for x in row[:4]], "label": vocabulary.objects[int(row[4])]}
                for row in unique.tolist()
            ],
            "interactions": [
                {"human": h, "object": o, "verb": vocabulary.verbs[v], "score": _short(s)}
                for h, o, v, s in zip(
                    human, object_, self.verbs.tolist(), self.scores.tolist(), strict=True
                )
            ],
        }


def write_predictions(
    path: str | Path, predictions: list[ImagePrediction], vocabulary: Vocabulary
) -> None:
    """Write all images' triplets to one JSON file, atomically.

    Raises:
        UserError: the file cannot be written.
    """
    header = {"format": FORMAT, "version": VERSION, "vocabulary": vocabulary.to_dict()}
    with atomic_write(path, "w") as file:
        file.write(json.dumps(header)[:-1] + ', "images": [')
        for number, prediction in enumerate(predictions):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(prediction.to_dict(vocabulary)))
        file.write("\n]}\n")


def read_predictions(path: str | Path, vocabulary: Vocabulary) -> list[ImagePrediction]:
    """Read what `write_predictions` wrote; names are looked up in `vocabulary`.

    Raises:
        UserError: the file is missing, not JSON, another format, or an entry of it is broken (the
            message says which image and what).
    """
    path = Path(path)
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise UserError(
            f'{path} is not a prediction file of this package (no "format": "{FORMAT}"). '
            "PPDM's JSON and V-COCO's pickle have readers of their own"
        )
    if values.get("version") != VERSION:
        raise UserError(
            f"{path} has version {values.get('version')!r}; this ggnet reads version {VERSION}"
        )
    if not isinstance(values.get("images"), list):
        raise UserError(f"{path} has no list of images; it may be cut short")
    objects = {name: index for index, name in enumerate(vocabulary.objects)}
    verbs = {name: index for index, name in enumerate(vocabulary.verbs)}
    predictions = []
    for number, entry in enumerate(values["images"]):
        try:
            predictions.append(_prediction(entry, objects, verbs))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            name = entry.get("file_name") if isinstance(entry, dict) else None
            problem = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{path}, image {number} ({name}): {problem}; expected image_id, file_name, "
                "objects [{box, label}] and interactions [{human, object, verb, score}] with "
                f"names of the vocabulary '{vocabulary.name}'"
            ) from None
    return predictions


def _prediction(entry: dict, objects: dict[str, int], verbs: dict[str, int]) -> ImagePrediction:
    boxes = np.array([item["box"] for item in entry["objects"]], dtype=np.float32).reshape(-1, 4)
    labels = np.array([objects[item["label"]] for item in entry["objects"]], dtype=np.int64)
    rows = entry["interactions"]
    human = np.array([row["human"] for row in rows], dtype=np.int64)
    object_ = np.array([row["object"] for row in rows], dtype=np.int64)
    scores = np.array([row["score"] for row in rows], dtype=np.float32)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError("a box or score is not a finite number")
    if len(rows) and min(human.min(), object_.min()) < 0:
        raise ValueError("a human or object index is negative")
    return ImagePrediction(
        str(entry["image_id"]),
        str(entry["file_name"]),
        boxes[human],
        boxes[object_],
        labels[object_],
        np.array([verbs[row["verb"]] for row in rows], dtype=np.int64),
        scores,
    )


def _short(value: float) -> float:
    """The shortest decimal that reads back as the same float32."""
    return float(f"{value:.9g}") if math.isfinite(value) else value

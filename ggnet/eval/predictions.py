"""Predicted triplets of images, where the network looked, and the JSON file of the triplets.

    {"format": "ggnet predictions", "version": 1, "vocabulary": {...},
     "images": [{"image_id": "7", "file_name": "a.jpg", "width": 640, "height": 480,
                 "objects": [{"box": [x1, y1, x2, y2], "label": "person", "score": 0.98}, ...],
                 "interactions": [{"human": 0, "object": 1, "verb": "ride", "score": 0.93}, ...]}]}

Boxes are edges in pixels of the original image, 0-based; human and object count `objects`. Width,
height and the scores of objects may be missing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import read_json
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader
from ggnet.io import atomic_write

FORMAT, VERSION = "ggnet predictions", 1
# Edges minus inclusive pixels, as other people's files have them.
INCLUSIVE = np.array([0, 0, 1, 1])


@dataclass(eq=False)
class ImageDetections:
    """The n detected boxes of one image."""

    image_id: str
    boxes: np.ndarray  # (n, 4) float32 edges in original pixels
    labels: np.ndarray  # (n,) int64 object index
    scores: np.ndarray  # (n,) float32


@dataclass(eq=False)
class ImagePrediction:
    """The n triplets of one image, labels and verbs as contiguous indices."""

    image_id: str
    file_name: str
    human_boxes: np.ndarray  # (n, 4) [x1, y1, x2, y2], edges in original pixels; float64 from files
    object_boxes: np.ndarray  # (n, 4)
    object_labels: np.ndarray  # (n,) int64
    verbs: np.ndarray  # (n,) int64
    scores: np.ndarray  # (n,)
    detections: ImageDetections | None = None  # all boxes that the triplets were chosen from; not
    # part of the file
    human_scores: np.ndarray | None = None  # (n,) of the boxes; None: not known
    object_scores: np.ndarray | None = None  # (n,)
    size: tuple[int, int] | None = None  # width and height of the image, in pixels

    def __post_init__(self):
        count = len(self.scores)
        for name, shape in (
            ("human_boxes", (count, 4)),
            ("object_boxes", (count, 4)),
            ("object_labels", (count,)),
            ("verbs", (count,)),
            ("scores", (count,)),
            ("human_scores", (count,)),
            ("object_scores", (count,)),
        ):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(
                    f"{name} of image {self.image_id} has shape {value.shape}; "
                    f"expected {shape}, as there are {count} scores"
                )

    def __len__(self) -> int:
        """The number of triplets."""
        return len(self.scores)


@dataclass(eq=False)
class Gaze:
    """Where the network looked to score the n triplets of one image, in original pixels.

    ActPoint k of gaze step s for triplet i lies at `actpoints[s, i, k]` (x, y) and counts with
    `weights[s, i, k]`; it may lie outside the image. Networks without gaze steps have S = 0.
    """

    points: np.ndarray  # (n, 2) float32 interaction points (x, y)
    actpoints: np.ndarray  # (S, n, K, 2) float32
    weights: np.ndarray  # (S, n, K) float32 in [0, 1]


def write_predictions(
    path: str | Path, predictions: list[ImagePrediction], vocabulary: Vocabulary
) -> None:
    """Write all images' triplets to one JSON file, atomically.

    Each image's boxes are stored once, and values exactly.

    Raises:
        UserError: the file cannot be written.
        ValueError: a box or score is not finite.
    """
    header = {"format": FORMAT, "version": VERSION, "vocabulary": vocabulary.to_dict()}
    with atomic_write(path, "w") as file:
        file.write(json.dumps(header)[:-1] + ', "images": [')
        for number, prediction in enumerate(predictions):
            file.write(",\n" if number else "\n")
            file.write(_entry_text(prediction, vocabulary))
        file.write("\n]}\n")


def _entry_text(prediction: ImagePrediction, vocabulary: Vocabulary) -> str:
    """One entry of `images` as JSON; by hand, as a file has millions of numbers."""
    numbers = ("human_boxes", "object_boxes", "scores", "human_scores", "object_scores")
    for name in numbers:
        value = getattr(prediction, name)
        if value is not None and not np.isfinite(value).all():
            raise ValueError(f"{name} of image {prediction.image_id} are not all finite")
    people = [0] * len(prediction)
    boxes: dict[tuple, int] = {}  # box, label and score -> index
    human, object_ = (
        [boxes.setdefault(row, len(boxes)) for row in _rows(corners, labels, scores)]
        for corners, labels, scores in (
            (prediction.human_boxes, people, prediction.human_scores),
            (prediction.object_boxes, prediction.object_labels.tolist(), prediction.object_scores),
        )
    )
    names = [json.dumps(name) for name in vocabulary.objects]
    verbs = [json.dumps(vocabulary.verbs[verb]) for verb in prediction.verbs.tolist()]
    objects_text = ", ".join(
        f'{{"box": [{x1!r}, {y1!r}, {x2!r}, {y2!r}], "label": {names[label]}'
        + ("}" if score is None else f', "score": {score!r}}}')
        for x1, y1, x2, y2, label, score in boxes
    )
    interactions_text = ", ".join(
        f'{{"human": {h}, "object": {o}, "verb": {verb}, "score": {score!r}}}'
        for h, o, verb, score in zip(human, object_, verbs, prediction.scores.tolist(), strict=True)
    )
    size = ""
    if prediction.size is not None:
        size = '"width": {}, "height": {}, '.format(*prediction.size)
    return (
        f'{{"image_id": {json.dumps(prediction.image_id)}, '
        f'"file_name": {json.dumps(prediction.file_name)}, {size}'
        f'"objects": [{objects_text}], "interactions": [{interactions_text}]}}'
    )


def _rows(boxes: np.ndarray, labels: Sequence[int], scores: np.ndarray | None) -> list[tuple]:
    known = [None] * len(labels) if scores is None else scores.tolist()
    return [
        (*box, label, score)
        for box, label, score in zip(boxes.tolist(), labels, known, strict=True)
    ]


@reader("a prediction file of this package")
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
    boxes = finite([item["box"] for item in entry["objects"]], 4)
    labels = np.array([objects[item["label"]] for item in entry["objects"]], dtype=np.int64)
    rows = entry["interactions"]
    human, object_ = (indices([row[key] for row in rows]) for key in ("human", "object"))
    scores = finite([row["score"] for row in rows])
    of_boxes = [item.get("score") for item in entry["objects"]]
    box_scores = None if None in of_boxes else finite(of_boxes)
    size = (whole(entry["width"]), whole(entry["height"])) if "width" in entry else None
    return ImagePrediction(
        str(entry["image_id"]),
        str(entry["file_name"]),
        boxes[human],
        boxes[object_],
        labels[object_],
        np.array([verbs[row["verb"]] for row in rows], dtype=np.int64),
        scores,
        human_scores=None if box_scores is None else box_scores[human],
        object_scores=None if box_scores is None else box_scores[object_],
        size=size,
    )


def finite(values: Sequence, columns: int | None = None) -> np.ndarray:
    """Numbers of a file as float64, (n,) or (n, columns).

    Raises:
        TypeError, ValueError: one is no number or not finite, or a row has other columns.
    """
    shape = (len(values),) if columns is None else (len(values), columns)
    numbers = np.array(values, dtype=np.float64)
    if not len(values):
        return numbers.reshape(shape)
    if numbers.shape != shape:
        raise ValueError(f"numbers of shape {numbers.shape}; expected {shape}")
    if not np.isfinite(numbers).all():
        raise ValueError("a box or score is not a finite number")
    return numbers


def indices(values: Sequence) -> np.ndarray:
    """(n,) int64 of a file's indices.

    Raises:
        TypeError, ValueError: one is not a whole number, or negative (NumPy would count it from
            the end).
    """
    numbers = np.array([whole(value) for value in values], dtype=np.int64)
    if (numbers < 0).any():
        raise ValueError(f"an index is negative: {numbers.min()}")
    return numbers


def whole(value: Any) -> int:
    """An id or index of a file, also as text; 2.7 and NaN are not cut to one.

    Raises:
        TypeError, ValueError: it is not a whole number.
    """
    number = int(value) if isinstance(value, str | int) else float(value)
    if isinstance(value, bool) or number != number // 1:
        raise ValueError(f"{value} is not a whole number")
    return int(number)

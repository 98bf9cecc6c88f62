"""Prediction files of other projects: PPDM's JSON and V-COCO's pickle.

Both hold inclusive pixel coordinates counted from 0, as the official evaluators read them: the
right edge is x2 + 1. PPDM's JSON is a list of {file_name, predictions: [{bbox, category_id}],
hoi_prediction: [{subject_id, object_id, category_id, score}]}; V-COCO's pickle is a list of
{image_id, person_box, "<action>_agent": score, "<action>_<role>": [x1, y1, x2, y2, score]}.
"""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import ImageRecord, read_json
from ggnet.data.tables import vcoco_actions
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader
from ggnet.eval.predictions import (
    INCLUSIVE,
    ImagePrediction,
    finite,
    indices,
    read_predictions,
    whole,
)
from ggnet.eval.unpickle import load_plain
from ggnet.eval.vcoco import AGENT, RolePredictions
from ggnet.io import atomic_write
from ggnet.limited import call_limited


@reader("a prediction file of this package or PPDM's JSON")
def read_any(
    path: str | Path, records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> list[ImagePrediction]:
    """Triplets from this package's JSON or PPDM's, told apart by their first character.

    Raises:
        UserError: neither of them, or broken.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64).lstrip()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if start.startswith(b"["):
        return read_ppdm(path, records, vocabulary)
    return read_predictions(path, vocabulary)


@reader("PPDM's JSON of predictions")
def read_ppdm(
    path: str | Path, records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> list[ImagePrediction]:
    """Predictions in PPDM's JSON; images are found by file name.

    Raises:
        UserError: not such a file, an unknown image or id, or a broken entry (which is named).
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list):
        raise UserError(f"{path} holds a {type(entries).__name__}; expected PPDM's list of images")
    image_ids = {record.file_name: record.image_id for record in records}
    objects = {id_: index for index, id_ in enumerate(vocabulary.object_ids)}
    verbs = {id_: index for index, id_ in enumerate(vocabulary.verb_ids)}
    result = []
    for number, entry in enumerate(entries):
        try:
            boxes = finite([row["bbox"] for row in entry["predictions"]], 4) + INCLUSIVE
            labels = [objects[whole(row["category_id"])] for row in entry["predictions"]]
            rows = entry["hoi_prediction"]
            human, object_ = (
                indices([row[key] for row in rows]) for key in ("subject_id", "object_id")
            )
            name = entry["file_name"]
            result.append(
                ImagePrediction(
                    image_ids[name],
                    name,
                    boxes[human],
                    boxes[object_],
                    np.array(labels, dtype=np.int64)[object_],
                    np.array([verbs[whole(row["category_id"])] for row in rows], dtype=np.int64),
                    finite([row["score"] for row in rows]),
                )
            )
        except (IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
            name = entry.get("file_name") if isinstance(entry, dict) else None
            problem = f"unknown {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(
                f"{path}, image {number} ({name}): {problem}; expected file_name of an annotated "
                "image, predictions [{bbox, category_id}] and hoi_prediction [{subject_id, "
                f"object_id, category_id, score}}] with ids of '{vocabulary.name}'"
            ) from None
    return result


def write_ppdm(
    path: str | Path, predictions: Sequence[ImagePrediction], vocabulary: Vocabulary
) -> None:
    """Write predictions as PPDM's JSON, human and object of each triplet as boxes of their own."""
    with atomic_write(path, "w") as file:
        file.write("[")
        for number, prediction in enumerate(predictions):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(_ppdm_entry(prediction, vocabulary)))
        file.write("\n]\n")


def _ppdm_entry(prediction: ImagePrediction, vocabulary: Vocabulary) -> dict[str, Any]:
    people = (prediction.human_boxes.astype(np.float64) - INCLUSIVE).tolist()
    things = (prediction.object_boxes.astype(np.float64) - INCLUSIVE).tolist()
    ids = [vocabulary.object_ids[label] for label in prediction.object_labels.tolist()]
    count = len(prediction)
    return {
        "file_name": prediction.file_name,
        "predictions": [
            {"bbox": box, "category_id": id_}
            for box, id_ in zip(
                people + things, [vocabulary.object_ids[0]] * count + ids, strict=True
            )
        ],
        "hoi_prediction": [
            {
                "subject_id": row,
                "object_id": count + row,
                "category_id": vocabulary.verb_ids[verb],
                "score": score,
            }
            for row, (verb, score) in enumerate(
                zip(prediction.verbs.tolist(), prediction.scores.tolist(), strict=True)
            )
        ],
    }


@reader("a V-COCO pickle")
def read_vcoco_pickle(path: str | Path) -> list[RolePredictions]:
    """Role predictions of a V-COCO pickle, of Python 2 or 3; missing keys, NaN scores are nothing.

    Only numbers, texts, containers and NumPy arrays are unpickled, so the file cannot run code.

    Raises:
        UserError: not such a pickle, or it holds anything else.
    """
    found = call_limited(decode_vcoco_pickle, Path(path))
    return [
        RolePredictions(image_id, rows[:, :4], names, rows[:, 4:8], rows[:, 8])
        for image_id, names, rows in found
    ]


def decode_vcoco_pickle(path: Path) -> list[tuple[str, list[str], np.ndarray]]:
    """Each image's id, names of actions and roles, and (n, 9) persons, objects and scores of them;
    in this process, where ten bytes can take gigabytes."""
    try:
        with open(path, "rb") as file:
            entries = load_plain(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # broken pickles raise nearly anything
        raise UserError(f"{path} cannot be read as a V-COCO pickle: {error}") from None
    if not isinstance(entries, list):
        raise UserError(
            f"{path} holds a {type(entries).__name__}; expected V-COCO's list of persons"
        )
    columns: dict[str, list[tuple]] = {}
    for number, entry in enumerate(entries):
        try:
            person = _edges(entry["person_box"])
            mine = columns.setdefault(str(whole(entry["image_id"])), [])
            mine += [(person, *row) for row in _scored(entry)]
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, entry {number}: {type(error).__name__}: {error}; expected {{image_id, "
                'person_box, "<action>_agent": score, "<action>_<role>": [x1, y1, x2, y2, score]}'
            ) from None
    return [
        (
            image_id,
            [name for _, name, *_ in rows],
            np.array([[*person, *box, score] for person, _, box, score in rows]).reshape(-1, 9),
        )
        for image_id, rows in columns.items()
    ]


def _scored(entry: dict[str, Any]) -> list[tuple[str, np.ndarray, float]]:
    """(name, object box as edges or NaN, score) of everything that an entry of the pickle says."""
    nothing = np.full(4, np.nan)
    rows = []
    for action in vcoco_actions():
        name = f"{action.name}_{AGENT}"
        score = float(entry.get(name, np.nan))
        if not np.isnan(score):
            rows.append((name, nothing, _finite_score(score)))
        for role in action.roles:
            name = f"{action.name}_{role}"
            values = np.asarray(entry.get(name, np.full(5, np.nan)), dtype=np.float64).reshape(5)
            if not np.isnan(values[4]):
                box = _edges(values[:4]) if np.nan_to_num(values[:4]).any() else nothing
                rows.append((name, box, _finite_score(values[4])))
    return rows


def _finite_score(score: float) -> float:
    return float(finite([score])[0])


def _edges(box: Any) -> np.ndarray:
    return finite([box], 4)[0] + INCLUSIVE


def write_vcoco_pickle(path: str | Path, found: Sequence[RolePredictions]) -> None:
    """Write role predictions as the official evaluator wants them: every key in every entry.

    A person with several objects in a role gets several entries; NaN stands for nothing.
    """
    blank: dict[str, Any] = {}
    for action in vcoco_actions():
        blank[f"{action.name}_{AGENT}"] = float("nan")
        blank |= {f"{action.name}_{role}": [float("nan")] * 5 for role in action.roles}
    entries: list[dict[str, Any]] = []
    for image in found:
        people: dict[tuple, list[dict[str, Any]]] = {}
        used: dict[int, set[str]] = {}
        for person, name, box, score in zip(
            image.person_boxes, image.names, image.object_boxes, image.scores, strict=True
        ):
            inclusive = (person - INCLUSIVE).tolist()
            mine = people.setdefault(tuple(inclusive), [])
            entry = next((row for row in mine if name not in used[id(row)]), None)
            if entry is None:
                entry = {"image_id": int(image.image_id), "person_box": inclusive} | blank
                used[id(entry)] = set()
                mine.append(entry)
                entries.append(entry)
            used[id(entry)].add(name)
            if name.endswith(f"_{AGENT}"):
                entry[name] = float(score)
            else:
                known = np.zeros(4) if np.isnan(box).all() else box - INCLUSIVE
                entry[name] = [*known.tolist(), float(score)]
    with atomic_write(path) as file:
        pickle.dump(entries, file, protocol=2)

"""HICO-DET's annotation files. Boxes there are inclusive pixels counted from 1."""

from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import read_json
from ggnet.data.formats.entry import Entry, at
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.limited import call_limited

PERSON = 1  # COCO id


def read_json_file(path: Path, vocabulary: Vocabulary) -> list[Entry]:
    """`instances_*2015.json` of fredzzhang/hicodet.

    Raises:
        UserError: the file is not of that form.
    """
    values = read_json(path)
    try:
        objects = [_object_id(name, vocabulary) for name in values["objects"]]
        verb_ids = dict(zip(vocabulary.verbs, vocabulary.verb_ids, strict=True))
        verbs = [verb_ids[name] for name in values["verbs"]]
        rows = list(zip(values["filenames"], values["annotation"], strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not fredzzhang's HICO-DET JSON ({type(error).__name__}: {error}); expected "
            "annotation, filenames, objects and verbs"
        ) from None
    entries = []
    for number, (name, row) in enumerate(rows):
        entry = Entry(name, Path(name).stem)
        try:
            columns = (row[key] for key in ("boxes_h", "boxes_o", "object", "verb"))
            for human, object_, object_index, verb_index in zip(*columns, strict=True):
                entry.pair(
                    entry.box(_edges(human), PERSON),
                    entry.box(_edges(object_), at(objects, object_index)),
                    at(verbs, verb_index),
                )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, image {number} ({name}): {type(error).__name__}: {error}; expected "
                "equally long lists boxes_h, boxes_o, object and verb"
            ) from None
        entries.append(entry)
    return entries


def read_mat_file(
    path: Path, split: str, labels: str | Path | None, vocabulary: Vocabulary
) -> list[Entry]:
    """The official `anno_bbox.mat`; invisible pairs are left out, as the official evaluator does.

    Args:
        labels: the official `anno.mat`, whose image-level labels define the Known-Object setting.

    Raises:
        UserError: a file is not of that form.
    """
    rows = call_limited(decode_mat_file, path, split, labels, vocabulary)
    return [Entry.from_dict(row) for row in rows]


def decode_mat_file(
    path: Path, split: str, labels: str | Path | None, vocabulary: Vocabulary
) -> list[dict[str, Any]]:
    """The entries of `read_mat_file` as plain values; in this process, which a changed byte of the
    file can end."""
    images = _load_mat(path, f"bbox_{split}", "anno_bbox.mat")
    known = _known_objects(Path(labels), split, vocabulary) if labels else {}
    entries = []
    for number, image in enumerate(np.atleast_1d(images)):
        try:
            entries.append(_mat_entry(image, known, vocabulary).to_dict())
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, image {number}: {type(error).__name__}: {error}; expected filename and "
                "hoi {id, bboxhuman, bboxobject, connection, invis}, counted from 1"
            ) from None
    return entries


def _mat_entry(image: Any, known: dict[str, list[int]], vocabulary: Vocabulary) -> Entry:
    name = str(image.filename)
    entry = Entry(name, Path(name).stem, known.get(name))
    for group in np.atleast_1d(image.hoi):
        if group.invis:
            continue
        verb, object_ = at(vocabulary.hois, group.id - 1)
        humans, objects = np.atleast_1d(group.bboxhuman), np.atleast_1d(group.bboxobject)
        for human, thing in np.atleast_2d(group.connection):
            entry.pair(
                entry.box(_corners(at(humans, human - 1)), PERSON),
                entry.box(_corners(at(objects, thing - 1)), vocabulary.object_ids[object_]),
                vocabulary.verb_ids[verb],
            )
    return entry


def _load_mat(path: Path, key: str, expected: str) -> Any:
    from scipy.io import loadmat  # slow to import, and only MATLAB users need it

    try:
        return loadmat(path, squeeze_me=True, struct_as_record=False)[key]
    except FileNotFoundError:
        raise UserError(f"cannot read {path}: no such file") from None
    except KeyError:
        raise UserError(f"{path} has no '{key}'; expected the official {expected}") from None
    except Exception as error:  # SciPy raises many kinds for files that are no MATLAB files
        raise UserError(
            f"{path} cannot be read as a MATLAB file ({error}); expected the official {expected}"
        ) from None


def _known_objects(path: Path, split: str, vocabulary: Vocabulary) -> dict[str, list[int]]:
    """File name -> ids of the objects with a positive image-level label of any of their HOIs."""
    names = np.atleast_1d(_load_mat(path, f"list_{split}", "anno.mat"))
    positive = np.atleast_2d(_load_mat(path, f"anno_{split}", "anno.mat")) == 1  # (600, images)
    if positive.shape != (len(vocabulary.hois), len(names)):
        raise UserError(
            f"{path}: anno_{split} is {positive.shape}; expected ({len(vocabulary.hois)}, "
            f"{len(names)})"
        )
    object_ids = np.array([vocabulary.object_ids[object_] for _, object_ in vocabulary.hois])
    return {
        str(name): np.unique(object_ids[column]).tolist()
        for name, column in zip(names, positive.T, strict=True)
    }


def _object_id(name: str, vocabulary: Vocabulary) -> int:
    return vocabulary.object_ids[vocabulary.objects.index(name.replace("_", " "))]


def _corners(box: Any) -> list[float]:
    return _edges([float(box.x1), float(box.y1), float(box.x2), float(box.y2)])


def _edges(box: list[float]) -> list[float]:
    """Inclusive pixels counted from 1 -> edges counted from 0."""
    x1, y1, x2, y2 = box
    return [x1 - 1, y1 - 1, x2, y2]

"""Other people's annotation files into this package's dataset folder (`ggnet.data.annotations`).

Sources, by name:

- "hico-json": `instances_train2015.json` and `instances_test2015.json` of fredzzhang/hicodet
- "hico-mat": the official `anno_bbox.mat` for both splits, with `anno.mat` for image-level labels
- "hico-ppdm": `trainval_hico.json` and `test_hico.json` of PPDM, QPIC and others
- "vcoco-json": `instances_vcoco_trainval.json` and `instances_vcoco_test.json` of fredzzhang/vcoco
- "vcoco-official": `vcoco_trainval.json` and `vcoco_test.json`, with COCO's `instances_*2014.json`
- "vcoco-ppdm": `train_vcoco.json` and `test_vcoco.json` of PPDM and others

HICO-DET's boxes are inclusive pixels counted from 1, [x1, x2]; as edges they are [x1 - 1, x2].
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import Dataset, ImageRecord, load_dataset, read_records
from ggnet.data.formats import hico, vcoco
from ggnet.data.formats.entry import Entry
from ggnet.data.problems import Problems
from ggnet.data.tables import hico_rare, hico_vocabulary, vcoco_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.io import atomic_write

SOURCES = ("hico-json", "hico-mat", "hico-ppdm", "vcoco-json", "vcoco-official", "vcoco-ppdm")
SPLITS = ("train", "test")


def convert(
    source: str,
    output: str | Path,
    *,
    train: str | Path | None = None,
    test: str | Path | None = None,
    train_images: str | Path | None = None,
    test_images: str | Path | None = None,
    labels: str | Path | None = None,
    coco: Sequence[str | Path] = (),
    problems: Problems | None = None,
) -> Dataset:
    """Write a dataset folder from a published annotation format.

    Args:
        source: one of SOURCES.
        output: the folder to write; its own files in it are replaced.
        train, test: annotation files ("hico-mat": `anno_bbox.mat`, for both). One may be left out,
            except V-COCO's train, whose pairs say which verb goes with which object.
        train_images, test_images: folders with the images; default `output`/images/<split>.
        labels: HICO-DET's `anno.mat`: image-level labels for the Known-Object setting ("hico-mat").
        coco: COCO's `instances_train2014.json` and `instances_val2014.json` ("vcoco-official").
        problems: collects what is left out; without it a summary is logged.

    Raises:
        UserError: a file is missing or not of the named format, or an argument is missing.
    """
    if source not in SOURCES:
        raise UserError(f"unknown source '{source}'; expected one of {', '.join(SOURCES)}")
    found = Problems() if problems is None else problems
    output = Path(output)
    files = {name: Path(path) for name, path in zip(SPLITS, (train, test), strict=True) if path}
    if not files:
        raise UserError("nothing to convert: give the annotation file of train, test or both")
    if source.startswith("vcoco") and "train" not in files:
        raise UserError(
            "V-COCO needs its trainval file as train: it alone says which verb goes with which "
            "object (a table from the test file would leak)"
        )
    roles: dict[str, list[dict]] = {}
    vocabulary = hico_vocabulary() if source.startswith("hico") else vcoco_vocabulary()
    entries: dict[str, list[Entry]] = {}
    for split, path in files.items():
        if source == "hico-json":
            entries[split] = hico.read_json_file(path, vocabulary)
        elif source == "hico-mat":
            entries[split] = hico.read_mat_file(path, split, labels, vocabulary)
        elif source == "vcoco-json":
            entries[split] = vcoco.read_json_file(path, vocabulary)
        elif source == "vcoco-official":
            entries[split], roles[split] = vcoco.read_official_file(path, coco, vocabulary, found)
        else:
            shift = 1.0 if source == "hico-ppdm" else 0.0
            records = read_records(path, None, vocabulary, found)
            entries[split] = [_from_record(record, vocabulary, shift) for record in records]
    if "train" in entries:
        entries["train"] = _with_boxes(entries["train"], files["train"], found)
    if source.startswith("vcoco"):
        vocabulary = vcoco_vocabulary(_pairs_in(entries["train"], vocabulary))

    images = dict(zip(SPLITS, (train_images, test_images), strict=True))
    description = _describe(vocabulary, source)
    for split, rows in entries.items():
        folder = Path(images[split]).absolute() if images[split] else Path("images") / split
        description["splits"][split] = {"annotations": f"{split}.json", "images": str(folder)}
        _write_lines(output / f"{split}.json", [row.to_dict() for row in rows])
        if split in roles:
            description["splits"][split]["roles"] = f"{split}_roles.json"
            _write_lines(output / f"{split}_roles.json", roles[split])
    with atomic_write(output / "dataset.json", "w") as file:
        file.write(json.dumps(description, indent=1) + "\n")
    if problems is None:
        found.log()
    return load_dataset(output)


def _describe(vocabulary: Vocabulary, source: str) -> dict[str, Any]:
    """`dataset.json` without its splits."""
    description: dict[str, Any] = {
        "name": vocabulary.name,
        "version": f"converted from {source}",
        "objects": [
            {"id": id_, "name": name}
            for id_, name in zip(vocabulary.object_ids, vocabulary.objects, strict=True)
        ],
        "verbs": [
            {"id": id_, "name": name}
            for id_, name in zip(vocabulary.verb_ids, vocabulary.verbs, strict=True)
        ],
        "hois": [[vocabulary.verb_ids[v], vocabulary.object_ids[o]] for v, o in vocabulary.hois],
        "splits": {},
    }
    if source.startswith("hico"):
        description["rare"] = np.flatnonzero(hico_rare()).tolist()
    return description


def _write_lines(path: Path, rows: list[dict]) -> None:
    """A JSON list, one item a line."""
    with atomic_write(path, "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def _with_boxes(entries: list[Entry], path: Path, problems: Problems) -> list[Entry]:
    """Training entries that have boxes: the others would teach that there is nobody."""
    for entry in entries:
        if not entry.boxes:
            problems.add("training image without boxes", path, entry.file_name, "no box")
    return [entry for entry in entries if entry.boxes]


def _pairs_in(entries: list[Entry], vocabulary: Vocabulary) -> set[tuple[int, int]]:
    """(verb index, object index) of all pairs."""
    verbs = {id_: index for index, id_ in enumerate(vocabulary.verb_ids)}
    objects = {id_: index for index, id_ in enumerate(vocabulary.object_ids)}
    found = set()
    for entry in entries:
        ids = [row[4] for row in entry.boxes]
        found |= {(verbs[verb], objects[ids[object_]]) for _, object_, verb in entry.pairs}
    return found


def _from_record(record: ImageRecord, vocabulary: Vocabulary, shift: float) -> Entry:
    """PPDM's files, already read; `shift` turns boxes counted from 1 into edges."""
    entry = Entry(record.file_name, record.image_id)
    indices = []
    for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
        edges = [box[0] - shift, box[1] - shift, box[2], box[3]]
        indices.append(entry.box(edges, vocabulary.object_ids[label]))
    for human, object_, verb in record.pairs.tolist():
        entry.pair(indices[human], indices[object_], vocabulary.verb_ids[verb])
    return entry

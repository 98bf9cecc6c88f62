"""Other people's annotation files into this package's dataset folder (`ggnet.data.annotations`)."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import Dataset, load_dataset
from ggnet.data.duplicates import merged
from ggnet.data.formats.entry import Entry
from ggnet.data.problems import Problems
from ggnet.data.sources import SOURCES, Request
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.io import atomic_write

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
    merge: bool = True,
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
        merge: in the training split of HICO-DET, take boxes that were drawn anew for each verb
            (`ggnet.data.duplicates`) as one. The test split always stays as the metric wants it.
        problems: collects what is left out; without it a summary is logged.

    Raises:
        UserError: a file is missing or not of the named format, or an argument is missing.
    """
    if source not in SOURCES:
        raise UserError(f"unknown source '{source}'; expected one of {', '.join(SOURCES)}")
    format_ = SOURCES[source]
    found = Problems() if problems is None else problems
    output = Path(output)
    files = {name: Path(path) for name, path in zip(SPLITS, (train, test), strict=True) if path}
    if not files:
        raise UserError("nothing to convert: give the annotation file of train, test or both")
    vocabulary = format_.vocabulary()
    if format_.pairs_from_train and "train" not in files:
        raise UserError(
            "V-COCO needs its trainval file as train: it alone says which verb goes with which "
            "object (a table from the test file would leak)"
        )
    contents = {
        split: format_.read(Request(path, split, vocabulary, found, labels, coco))
        for split, path in files.items()
    }
    if "train" in contents:
        entries = _with_boxes(contents["train"].entries, files["train"], found)
        if merge and format_.repeats_boxes:
            entries = [merged(entry) for entry in entries]
        contents["train"].entries = entries
    if format_.pairs_from_train:
        pairs = _pairs_in(contents["train"].entries, vocabulary)
        vocabulary = replace(vocabulary, hois=tuple(sorted(pairs)))

    images = dict(zip(SPLITS, (train_images, test_images), strict=True))
    description = _describe(vocabulary, source)
    if format_.rare is not None:
        description["rare"] = np.flatnonzero(format_.rare()).tolist()
    for split, content in contents.items():
        folder = Path(images[split]).absolute() if images[split] else Path("images") / split
        description["splits"][split] = {"annotations": f"{split}.json", "images": str(folder)}
        _write_lines(output / f"{split}.json", [row.to_dict() for row in content.entries])
        if content.roles is not None:
            description["splits"][split]["roles"] = f"{split}_roles.json"
            _write_lines(output / f"{split}_roles.json", content.roles)
    with atomic_write(output / "dataset.json", "w") as file:
        file.write(json.dumps(description, indent=1) + "\n")
    if problems is None:
        found.log()
    return load_dataset(output)


def _describe(vocabulary: Vocabulary, source: str) -> dict[str, Any]:
    """`dataset.json` without its splits."""
    return {
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

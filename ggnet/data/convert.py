"""Other people's annotation files into this package's dataset folder (`ggnet.data.annotations`)."""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import Dataset, load_dataset
from ggnet.data.duplicates import merged
from ggnet.data.formats.entry import Entry
from ggnet.data.problems import Problems
from ggnet.data.sources import SOURCES, Content, Request
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reading
from ggnet.io import atomic_write

SPLITS = ("train", "val", "test")


def convert(
    source: str,
    output: str | Path,
    *,
    train: str | Path | None = None,
    val: str | Path | float | None = None,
    test: str | Path | float | None = None,
    train_images: str | Path | None = None,
    val_images: str | Path | None = None,
    test_images: str | Path | None = None,
    labels: str | Path | None = None,
    coco: Sequence[str | Path] = (),
    merge: bool = True,
    person: str = "person",
    problems: Problems | None = None,
) -> Dataset:
    """Write a dataset folder from a published annotation format, or from an annotation tool's.

    Args:
        source: one of SOURCES.
        output: the folder to write; its own files in it are replaced.
        train, val, test: annotation files ("hico-mat": `anno_bbox.mat`, for all). Some may be left
            out, but V-COCO's train, whose pairs say which verb goes with which object. val and test
            may be a share of train's images between 0 and 1, which are then held out from it: by
            their names, so that they are the same the next time.
        train_images, val_images, test_images: folders with the images; default
            `output`/images/<split>, of a share the one of train.
        labels: HICO-DET's `anno.mat`: image-level labels for the Known-Object setting ("hico-mat").
        coco: COCO's `instances_train2014.json` and `instances_val2014.json` ("vcoco-official").
        merge: in the training split of HICO-DET, take boxes that were drawn anew for each verb
            (`ggnet.data.duplicates`) as one. The other splits always stay as the metric wants them.
        person: the label of people, in files that name their classes themselves.
        problems: collects what is left out; without it a summary is logged.

    Raises:
        UserError: a file is missing or not of the named format, or an argument is missing.
    """
    if source not in SOURCES:
        match = difflib.get_close_matches(source, SOURCES, n=1)
        hint = f"; did you mean '{match[0]}'?" if match else "."
        raise UserError(f"unknown source '{source}'{hint} Expected one of {', '.join(SOURCES)}")
    format_ = SOURCES[source]
    found = Problems() if problems is None else problems
    output = Path(output)
    given = dict(zip(SPLITS, (train, val, test), strict=True))
    shares = {name: share for name in SPLITS if (share := _share(name, given[name])) is not None}
    files = {name: Path(path) for name, path in given.items() if path and name not in shares}
    if not files:
        raise UserError("nothing to convert: give an annotation file of train, val or test")
    if "train" in shares or (shares and "train" not in files) or sum(shares.values()) >= 1:
        raise UserError("a share is held out from train: give its file, and shares of less than 1")
    images = dict(zip(SPLITS, (train_images, val_images, test_images), strict=True))
    folders = {name: Path(folder).absolute() for name, folder in images.items() if folder}
    for name in files.keys() | shares.keys():
        from_ = "train" if name in shares else name
        folders.setdefault(name, folders.get(from_, Path("images") / from_))
    vocabulary = format_.vocabulary() if format_.vocabulary else None
    if format_.pairs_from_train and "train" not in files:
        raise UserError(
            "V-COCO needs its trainval file as train: it alone says which verb goes with which "
            "object (a table from the test file would leak)"
        )
    with reading(", ".join(map(str, files.values())), f"the format {source}"):
        contents = {
            split: format_.read(
                Request(
                    path, split, vocabulary, found, output / folders[split], person, labels, coco
                )
            )
            for split, path in files.items()
        }
        for split, share in shares.items():
            contents[split] = _hold_out(contents["train"], share / _rest(shares, split), split)
        if vocabulary is None:
            vocabulary = number_names(contents.values(), person, output.resolve().name)
        if "train" in contents:
            entries = _with_boxes(contents["train"].entries, files["train"], found)
            if merge and format_.repeats_boxes:
                entries = [merged(entry) for entry in entries]
            contents["train"].entries = entries
        if format_.pairs_from_train:
            pairs = _pairs_in(contents["train"].entries, vocabulary)
            vocabulary = replace(vocabulary, hois=tuple(sorted(pairs)))

    description = _describe(vocabulary, source)
    if format_.rare is not None:
        description["rare"] = np.flatnonzero(format_.rare()).tolist()
    for split in (name for name in SPLITS if name in contents):
        content = contents[split]
        description["splits"][split] = {
            "annotations": f"{split}.json",
            "images": str(folders[split]),
        }
        _write_lines(output / f"{split}.json", [row.to_dict() for row in content.entries])
        if content.roles is not None:
            description["splits"][split]["roles"] = f"{split}_roles.json"
            _write_lines(output / f"{split}_roles.json", content.roles)
    with atomic_write(output / "dataset.json", "w") as file:
        file.write(json.dumps(description, indent=1) + "\n")
    if problems is None:
        found.log()
    return load_dataset(output)


def _share(split: str, value: str | Path | float | None) -> float | None:
    """The share of the training images that a split is to hold; None where it has a file."""
    try:
        share = float(value)
    except (TypeError, ValueError):
        return None
    if isinstance(value, str) and Path(value).is_file():
        return None
    if not 0 < share < 1:
        raise UserError(f"{split} is {value}; expected a file, or a share between 0 and 1")
    return share


def _rest(shares: Mapping[str, float], split: str) -> float:
    """What is left of the training images when `split` is held out."""
    names = list(shares)
    return 1 - sum(shares[name] for name in names[: names.index(split)])


def _hold_out(train: Content, share: float, split: str) -> Content:
    """Take a share of the images, one at least, out of `train`."""
    order = sorted(
        train.entries,
        key=lambda entry: hashlib.sha256(entry.file_name.encode(errors="surrogatepass")).digest(),
    )
    count = max(1, round(share * len(order)))
    if count >= len(order):
        raise UserError(
            f"{len(order)} training images are too few to hold some out for {split}; expected at "
            "least 2 for every split"
        )
    held = {entry.image_id for entry in order[:count]}
    taken = replace(train, entries=[e for e in train.entries if e.image_id in held])
    train.entries = [entry for entry in train.entries if entry.image_id not in held]
    if train.roles is not None:
        taken.roles = [row for row in train.roles if row["image_id"] in held]
        train.roles = [row for row in train.roles if row["image_id"] not in held]
    return taken


def number_names(contents: Iterable[Content], person: str, name: str) -> Vocabulary:
    """Give the names in entries ids; the vocabulary has the pairs that occur in any split.

    Objects keep the ids that the files give them, else both kinds count from 1: the person first,
    the others by name.

    Raises:
        UserError: nobody is a person or does anything; files whose ids differ.
    """
    contents = list(contents)
    entries = [entry for content in contents for entry in content.entries]
    objects = {row[4] for entry in entries for row in entry.boxes}
    if person not in objects:
        raise UserError(
            f"no box is labelled '{person}', but {', '.join(sorted(objects)) or 'nothing'}; say "
            "which label people have: --person LABEL"
        )
    verbs = sorted({verb for entry in entries for *_, verb in entry.pairs})
    if not verbs:
        raise UserError(
            "no relation says what a person does with a thing; expected at least one. "
            "docs/own-data.md shows how to draw them"
        )
    given = [content.object_ids for content in contents]
    if any(ids != given[0] for ids in given):
        raise UserError("the files of the splits give their categories different ids; expected one")
    names = [person, *sorted(objects - {person})]
    object_ids = given[0]
    if object_ids is None or any(type(id_) is not int for id_ in object_ids.values()):
        object_ids = {name: number for number, name in enumerate(names, 1)}
    verb_ids = {verb: number for number, verb in enumerate(verbs, 1)}
    hois = set()
    for entry in entries:
        labels = [row[4] for row in entry.boxes]
        hois |= {(verbs.index(v), names.index(labels[o])) for _, o, v in entry.pairs}
        entry.boxes = {(*row[:4], object_ids[row[4]]): i for row, i in entry.boxes.items()}
        entry.pairs = {(h, o, verb_ids[v]): None for h, o, v in entry.pairs}
    return Vocabulary(
        name,
        tuple(names),
        tuple(object_ids[name] for name in names),
        tuple(verbs),
        tuple(verb_ids.values()),
        tuple(sorted(hois)),
    )


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

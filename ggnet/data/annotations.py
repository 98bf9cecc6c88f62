"""The dataset folder and its annotation files: the format for a dataset of one's own.

A dataset is a folder with `dataset.json`:

    {"name": "mine", "version": "1",
     "objects": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
     "verbs": [{"id": 1, "name": "pet"}, {"id": 2, "name": "walk"}],
     "hois": [[1, 18], [2, 18]],
     "splits": {"train": {"annotations": "train.json", "images": "images/train"},
                "test": {"annotations": "test.json", "images": "images/test"}}}

The first object is the person; `hois` lists the (verb id, object id) pairs that make sense, in the
order of the HOI classes. Optional: `rare`, indices of rare HOIs; a split `val`, by which training
chooses the best epoch instead of by `test`; a split's `roles`, for V-COCO's metric. Each split has
a JSON list of images in the style of PPDM:

    {"file_name": "a.jpg", "img_id": 1,
     "annotations": [{"bbox": [x1, y1, x2, y2], "category_id": 1}, ...],
     "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 2}, ...]}

Boxes are edges in pixels, 0-based: a box as wide as the image is [0, ..., width, ...]. subject_id
and object_id count the image's annotations; a pair's category_id is a verb's id, or a list of them.
img_id defaults to file_name. Optional: `known_objects`, ids of the objects
that image-level labels name, for HICO's Known-Object setting.
"""

import json
import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ggnet.data.box_units import check_corners
from ggnet.data.problems import Problems
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader

if TYPE_CHECKING:
    from ggnet.data.unseen import Unseen


@dataclass(eq=False)
class ImageRecord:
    """One image's ground truth, ids already turned into contiguous indices."""

    file_name: str
    image_id: str
    path: Path
    boxes: np.ndarray  # (n, 4) float64 [x1, y1, x2, y2], edges in original pixels
    labels: np.ndarray  # (n,) int64 object index, 0 = person
    pairs: np.ndarray  # (m, 3) int64 [human, object (indices into boxes), verb index]
    known_objects: np.ndarray | None = None  # object indices that image-level labels name, for
    # HICO's Known-Object setting; None: those of the pairs


@dataclass(frozen=True)
class Split:
    """Where one split's annotations and images are."""

    annotations: Path
    images: Path
    roles: Path | None  # V-COCO's persons, actions and roles for its own metric


@dataclass(frozen=True, eq=False)
class Dataset:
    """What `dataset.json` says."""

    root: Path
    version: str
    vocabulary: Vocabulary
    splits: dict[str, Split]
    rare: np.ndarray | None  # (HOIs,) bool, where the file lists the rare ones
    unseen: "Unseen | None" = None  # HOIs kept from training, see `ggnet.data.unseen`

    def load(
        self, split: str, problems: Problems | None = None, *, look_for_images: bool = True
    ) -> list[ImageRecord]:
        """The records of one split; see `load_annotations`."""
        if split not in self.splits:
            raise UserError(
                f"{self.root / 'dataset.json'} has no split '{split}'; it has "
                f"{', '.join(self.splits)}"
            )
        files = self.splits[split]
        images = files.images if look_for_images else None
        return load_annotations(files.annotations, images, self.vocabulary, problems)

    @property
    def split_to_score(self) -> str:
        """The split that is evaluated where none is named: test, or val without a test."""
        return "val" if "val" in self.splits and "test" not in self.splits else "test"

    def load_to_score(self, split: str, *, partial: bool = False) -> tuple[list[ImageRecord], int]:
        """The records of a split whose images are there, and how many images are missing.

        Raises:
            UserError: as `load`; images are missing and `partial` does not allow it.
        """
        problems = Problems()
        records = self.load(split, problems)
        missing = [problem for problem in problems.items if problem.kind == "missing image"]
        if missing and not partial:
            raise UserError(
                f"{len(missing)} of {len(missing) + len(records)} images of split '{split}' are "
                f"missing in {self.splits[split].images}, the first: {missing[0].record}. Figures "
                "of the rest cannot be compared with anybody's. Complete the download, or set "
                "eval.partial=true (`ggnet eval --partial`) to have them all the same"
            )
        problems.log()
        return records, len(missing)

    @cached_property
    def train_counts(self) -> np.ndarray | None:
        """(HOIs,) int64: how many pairs of each HOI the training split has, whether or not its
        images are there; None without such a split. Problems are for who trains to hear."""
        if "train" not in self.splits:
            return None
        return hoi_counts(self.load("train", Problems(), look_for_images=False), self.vocabulary)

    def rare_hois(self, threshold: int = 10) -> np.ndarray | None:
        """(HOIs,) bool: those that the file lists, else those with fewer than `threshold` pairs in
        training; None without list and training split."""
        if self.rare is not None or self.train_counts is None:
            return self.rare
        return self.train_counts < threshold


@reader("a dataset folder, see ggnet.data.annotations")
def load_dataset(root: str | Path) -> Dataset:
    """Read `root`/dataset.json.

    Raises:
        UserError: the folder or file is missing, is not JSON, lacks a key, or its tables
            contradict each other.
    """
    root = Path(root)
    path = root / "dataset.json"
    if not is_file(path):
        raise UserError(
            f"{root} is not a dataset: it has no dataset.json. Set data.root to a dataset's "
            "folder; `ggnet data generate` makes the bundled one, `ggnet data convert` imports "
            "others"
        )
    values = read_json(path)
    try:
        objects, verbs = values["objects"], values["verbs"]
        verb_index = {verb["id"]: index for index, verb in enumerate(verbs)}
        object_index = {object_["id"]: index for index, object_ in enumerate(objects)}
        vocabulary = Vocabulary(
            name=str(values["name"]),
            objects=tuple(object_["name"] for object_ in objects),
            object_ids=tuple(object_index),
            verbs=tuple(verb["name"] for verb in verbs),
            verb_ids=tuple(verb_index),
            hois=tuple(
                (verb_index[verb], object_index[object_]) for verb, object_ in values["hois"]
            ),
        )
        splits = {
            name: Split(
                root / files["annotations"],
                root / files["images"],
                root / files["roles"] if "roles" in files else None,
            )
            for name, files in values["splits"].items()
        }
        rare = None
        if values.get("rare") is not None:
            rare = np.zeros(len(vocabulary.hois), dtype=bool)
            for hoi in values["rare"]:
                if type(hoi) is not int or not 0 <= hoi < len(rare):
                    raise ValueError(
                        f"rare holds {hoi!r}; expected indices of the {len(rare)} hois"
                    )
                rare[hoi] = True
        _check_ids_and_person(vocabulary)
    except KeyError as error:
        raise UserError(
            f"{path}: no {error.args[0]!r} where it is needed. Expected the keys name, objects, "
            "verbs ([{id, name}, ...]), hois ([[verb id, object id], ...], ids that exist) and "
            "splits ({name: {annotations, images}})"
        ) from None
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a valid dataset description: {error}") from None
    return Dataset(root, str(values.get("version", "")), vocabulary, splits, rare)


def _check_ids_and_person(vocabulary: Vocabulary) -> None:
    for id_ in (*vocabulary.object_ids, *vocabulary.verb_ids):
        if type(id_) is not int:
            raise ValueError(f"id {id_!r} is not a whole number; write ids without quotes")
    for name in (*vocabulary.objects, *vocabulary.verbs):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name {name!r} is not a text; expected one for each object and verb")
    if "person" in vocabulary.objects[1:]:
        raise ValueError(
            f"the first object is '{vocabulary.objects[0]}'; expected the person there: move it to "
            "the front of objects, ids may stay as they are"
        )


@reader("a JSON list of images, see ggnet.data.annotations")
def load_annotations(
    path: str | Path,
    images: str | Path | None,
    vocabulary: Vocabulary,
    problems: Problems | None = None,
) -> list[ImageRecord]:
    """Read one annotation file; images are looked up in the folder `images` (None: not looked up).

    A broken record is left out or repaired, and noted in `problems`; without `problems`, a summary
    goes to the `ggnet` logger.

    Raises:
        UserError: the file or the folder is missing, the file is not a JSON list, images repeat, or
            nothing usable is left.
    """
    path = Path(path)
    found = Problems() if problems is None else problems
    start = len(found)
    records = read_records(path, images, vocabulary, found)
    new = found.items[start:]
    repeated = [problem for problem in new if problem.kind == "duplicate image"]
    if repeated:
        raise UserError(f"repeated images: {len(repeated)}, the first: {repeated[0]}")
    if problems is None:
        found.log()
    if not records:
        reason = f" The first problem: {new[0]}" if new else " The list is empty."
        raise UserError(f"{path} holds no usable image.{reason}")
    return records


@reader("a JSON list of images, see ggnet.data.annotations")
def read_records(
    path: Path, images: str | Path | None, vocabulary: Vocabulary, problems: Problems
) -> list[ImageRecord]:
    """As `load_annotations`, but repeated images and an empty result are only noted.

    Raises:
        UserError: as there, also where all boxes or ids mean something else than expected.
    """
    entries = read_json(path)
    if isinstance(entries, dict) and {"images", "annotations"} <= entries.keys():
        raise UserError(
            f"{path} is in COCO's format, which has boxes but not who does what with them. Add a "
            "list `relations` and convert it (`ggnet data convert coco-relations`), or relate the "
            "boxes in Label Studio or CVAT, see docs/own-data.md"
        )
    if not isinstance(entries, list):
        raise UserError(
            f"{path} holds a {type(entries).__name__}; expected a list of images. Other formats go "
            "through `ggnet data convert`"
        )
    if images is not None and not os.path.isdir(images):
        raise UserError(f"the image folder {images} does not exist; {path} needs it")
    reader = _Reader(path, vocabulary, problems)
    folder = None if images is None else Path(images)
    records = [reader.record(index, entry, folder) for index, entry in enumerate(entries)]
    reader.check_file()
    return [record for record in records if record is not None]


@reader("JSON")
def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: it cannot be read or is not JSON; the message says where.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. "
            "It may be cut short; copy or download it again"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason}; expected JSON") from None


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that none can have has none."""
    return os.path.isfile(path)


def hoi_counts(records: Iterable[ImageRecord], vocabulary: Vocabulary) -> np.ndarray:
    """(HOIs,) int64: how many pairs of each HOI there are; rare HOIs have few in training."""
    counts = np.zeros(len(vocabulary.hois), dtype=np.int64)
    for record in records:
        hois = pair_hois(record, vocabulary)
        np.add.at(counts, hois[hois >= 0], 1)
    return counts


def pair_hois(record: ImageRecord, vocabulary: Vocabulary) -> np.ndarray:
    """(m,) int64: the HOI index of each of the record's pairs, -1 where it has none."""
    return vocabulary.hoi_index(record.pairs[:, 2], record.labels[record.pairs[:, 1]])


class _Reader:
    """Turns the entries of one file into records and notes what is wrong with them."""

    def __init__(self, path: Path, vocabulary: Vocabulary, problems: Problems):
        self.path, self.vocabulary, self.problems = path, vocabulary, problems
        self.object_index = {id_: index for index, id_ in enumerate(vocabulary.object_ids)}
        self.verb_index = {id_: index for index, id_ in enumerate(vocabulary.verb_ids)}
        self.names: set[str] = set()
        self.ids: set[str] = set()
        self.where = ""
        # Of the whole file, as it has them:
        self.boxes: list[np.ndarray] = []
        self.paths: list[Path | None] = []
        self.objects: set[int | None] = set()
        self.verbs: set[int | None] = set()

    def check_file(self) -> None:
        """Refuse what is wrong with all records alike."""
        try:
            doubt = check_corners(self.boxes, self.paths)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
        if doubt:
            self.problems.add("boxes of a smaller image", self.path, "", doubt)
        for kind, found, known in (
            ("objects", self.objects, self.vocabulary.object_ids),
            ("verbs", self.verbs, self.vocabulary.verb_ids),
        ):
            if counts_from_zero(found, known):
                raise UserError(
                    f"{self.path} numbers the {kind} from 0, as its id 0 and no id above "
                    f"{len(known) - 1} say; in dataset.json their ids are {ids_text(known)}. Give "
                    f"each of the {kind} the id that dataset.json has at its place"
                )

    def record(self, index: int, entry: Any, folder: Path | None) -> ImageRecord | None:
        self.where = f"image {index}"
        if not isinstance(entry, dict):
            return self._note("record not an object", f"{_shown(entry)}")
        name = entry.get("file_name")
        if not isinstance(name, str) or not name.strip():
            return self._note("no file name", f"file_name is {_shown(name)}")
        name = name.strip()
        self.where = f"image {index} ({name})"
        image_id = str(entry.get("img_id", name)).strip()
        for value, seen, key in ((name, self.names, "file_name"), (image_id, self.ids, "img_id")):
            if value in seen:
                return self._note("duplicate image", f"{key} '{value}' was used before")
            seen.add(value)
        if not isinstance(entry.get("annotations"), list):
            return self._note("no annotations", f"annotations: {_shown(entry.get('annotations'))}")
        path = Path(name) if folder is None else folder / name
        if folder is not None and not is_file(path):
            return self._note("missing image", f"no file {path}")
        self.paths.append(None if folder is None else path)
        boxes, labels, kept = self._boxes(entry["annotations"])
        pairs = self._pairs(entry.get("hoi_annotation"), labels, kept)
        return ImageRecord(
            name,
            image_id,
            path,
            np.array(boxes, dtype=np.float64).reshape(-1, 4),
            np.array(labels, dtype=np.int64),
            np.array(pairs, dtype=np.int64).reshape(-1, 3),
            self._known_objects(entry.get("known_objects")),
        )

    def _note(self, kind: str, got: str, part: str = "") -> None:
        self.problems.add(kind, self.path, f"{self.where}{part}", got)

    def _boxes(self, entries: list) -> tuple[list, list, list[int | None]]:
        """Usable boxes and labels, and for each entry the index it got (None: left out)."""
        boxes, labels, kept, given = [], [], [], []
        for index, entry in enumerate(entries):
            part = f", annotation {index}"
            kept.append(None)
            box = entry.get("bbox") if isinstance(entry, dict) else None
            if not _is_box(box):
                self._note("box not a box", f"bbox {_shown(box)}", part)
                continue
            given.append(box)
            if box[2] <= box[0] or box[3] <= box[1]:
                self._note("zero-area box", f"bbox {box}", part)
                continue
            category = self._integer(entry.get("category_id"), "category_id", part)
            self.objects.add(category)
            if category not in self.object_index:
                self._note("unknown object id", f"id {_shown(entry.get('category_id'))}", part)
                continue
            kept[-1] = len(boxes)
            boxes.append(box)
            labels.append(self.object_index[category])
        self.boxes.append(np.array(given, dtype=np.float64).reshape(-1, 4))
        return boxes, labels, kept

    def _pairs(self, entries: Any, labels: list[int], kept: list[int | None]) -> list:
        if not isinstance(entries, list):
            self._note("no hoi_annotation", f"hoi_annotation: {_shown(entries)}")
            return []
        pairs: dict[tuple[int, int, int], None] = {}  # a set that keeps the order
        for index, entry in enumerate(entries):
            part = f", pair {index}"
            if not isinstance(entry, dict):
                self._note("pair not an object", _shown(entry), part)
                continue
            human, object_ = (
                self._box_index(entry.get(key), key, kept, part)
                for key in ("subject_id", "object_id")
            )
            if human is None or object_ is None:
                continue
            if labels[human] != 0:
                name = self.vocabulary.objects[labels[human]]
                self._note("subject not a person", f"subject is a {name}", part)
                continue
            verbs = entry.get("category_id")
            for value in verbs if isinstance(verbs, list) else [verbs]:
                number = self._integer(value, "category_id", part)
                self.verbs.add(number)
                verb = self.verb_index.get(number)
                if verb is None:
                    self._note("unknown verb id", f"id {_shown(value)}", part)
                elif (human, object_, verb) in pairs:
                    self._note("duplicate pair", f"verb {self.vocabulary.verbs[verb]}", part)
                else:
                    pairs[human, object_, verb] = None
                    if not self.vocabulary.valid_pairs[verb, labels[object_]]:
                        names = (
                            self.vocabulary.verbs[verb],
                            self.vocabulary.objects[labels[object_]],
                        )
                        self._note("pair not in hois", " ".join(names), part)
        return list(pairs)

    def _box_index(self, value: Any, key: str, kept: list[int | None], part: str) -> int | None:
        """The index of a pair's box among the usable ones."""
        index = self._integer(value, key, part)
        if index is None or not 0 <= index < len(kept):
            count = len(kept)
            self._note("index out of range", f"{key} {_shown(value)} of {count} boxes", part)
            return None
        if kept[index] is None:
            self._note("pair of a broken box", f"{key} {index}", part)
        return kept[index]

    def _integer(self, value: Any, key: str, part: str) -> int | None:
        """An id or index as a number; text such as PPDM's "12\\n" counts as a small problem."""
        if isinstance(value, bool):
            return None
        if isinstance(value, int):
            return value
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            return None
        if isinstance(value, float):
            return number if number == value else None
        self._note("id as text", f"{key} {_shown(value)}", part)
        return number

    def _known_objects(self, ids: Any) -> np.ndarray | None:
        if ids is None:
            return None
        if not isinstance(ids, list):
            return self._note("known_objects not a list", f"known_objects: {_shown(ids)}")
        known = []
        for id_ in ids:
            index = self.object_index.get(self._integer(id_, "known_objects", ""))
            if index is None:
                self._note("unknown known object", f"id {_shown(id_)}")
            else:
                known.append(index)
        return np.array(known, dtype=np.int64)


def counts_from_zero(found: Collection[int | None], known: Sequence[int]) -> bool:
    """Whether the ids of a file, where those of a dataset begin later, are places in its list."""
    numbers = {number for number in found if number is not None}
    return 0 in numbers and 0 not in known and numbers <= set(range(len(known)))


def ids_text(ids: Sequence[int]) -> str:
    """The first ids, for a message."""
    return ", ".join(map(str, ids[:3])) + (", ..." if len(ids) > 3 else "")


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
        and all(math.isfinite(x) and abs(x) < 1e7 for x in value)
    )


def _shown(value: Any) -> str:
    if value is None:
        return "is missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

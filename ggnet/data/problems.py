"""Broken records of an annotation file: each one named, all of them counted."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

logger = logging.getLogger("ggnet")

# kind: (what happens to the record, what was expected, what to do)
KINDS = {
    "split unusable": ("no record read", "a JSON list of images", "Mend what the message says"),
    "no image folder": (
        "loading stops",
        "an existing folder",
        "Put the images there or correct the split's images in dataset.json",
    ),
    "record not an object": (
        "image left out",
        "an object with file_name, annotations and hoi_annotation",
        "Correct or delete the entry",
    ),
    "no file name": ("image left out", "file_name, a non-empty string", "Add the image's name"),
    "no annotations": (
        "image left out",
        "annotations, a list of {bbox, category_id}",
        "Add the list; it may be empty",
    ),
    "no hoi_annotation": (
        "taken as an image without pairs",
        "hoi_annotation, a list of {subject_id, object_id, category_id}",
        "Add the list; it may be empty",
    ),
    "duplicate image": (
        "loading stops",
        "each file_name and each img_id once in the file",
        "Merge or delete the repeated entries: training and metrics would count them twice",
    ),
    "missing image": (
        "image left out",
        "an existing file",
        "Complete the download or correct file_name",
    ),
    "unreadable image": ("training stops there", "a complete image file", "Download it again"),
    "box not a box": (
        "box and its pairs left out",
        "bbox [x1, y1, x2, y2] of four finite numbers",
        "Correct the numbers",
    ),
    "zero-area box": (
        "box and its pairs left out",
        "x1 < x2 and y1 < y2",
        "Correct the corners",
    ),
    "box outside the image": (
        "kept",
        "a box that overlaps the image",
        "Correct the corners",
    ),
    "boxes of the unturned image": (
        "kept",
        "boxes in the upright image: the file lies on its side, and its EXIF tag says so",
        "Turn the boxes, or delete the tag (exiftool -Orientation= FILE)",
    ),
    "boxes of a smaller image": (
        "kept",
        "boxes in pixels of the image files, some of them near the right or lower edge",
        "See a few in a picture; if the images were enlarged since, enlarge the boxes too",
    ),
    "unknown object id": (
        "box and its pairs left out",
        "an id listed under objects in dataset.json",
        "Add the category or correct the id",
    ),
    "pair not an object": (
        "pair left out",
        "an object with subject_id, object_id and category_id",
        "Correct or delete the entry",
    ),
    "index out of range": (
        "pair left out",
        "subject_id and object_id counting the image's annotations from 0",
        "Correct the index; -1 marks a missing box in some files",
    ),
    "pair of a broken box": ("pair left out", "two usable boxes", "Correct the box named above"),
    "subject not a person": (
        "pair left out",
        "a subject of the first object category",
        "Correct subject_id",
    ),
    "unknown verb id": (
        "pair left out",
        "an id listed under verbs in dataset.json",
        "Add the verb or correct the id",
    ),
    "verb without a role": (
        "pair left out",
        "V-COCO's verbs with a role for the object",
        "Correct the verb or delete the pair",
    ),
    "duplicate pair": (
        "counted once",
        "each (subject, object, verb) once in an image",
        "Delete the repetition",
    ),
    "pair not in hois": (
        "kept for training; left out of HICO's metric, which has no class for it",
        "a (verb, object) pair listed under hois in dataset.json",
        "Add the pair to hois or correct the ids",
    ),
    "known_objects not a list": (
        "taken as if it was not there",
        "known_objects, a list of object ids",
        "Correct or delete it",
    ),
    "unknown known object": (
        "that id left out",
        "ids listed under objects in dataset.json",
        "Correct or delete the id",
    ),
    "id as text": ("read as the number", "a number", "Write the id without quotes"),
    "training image without boxes": (
        "image left out of training",
        "at least one box",
        "Nothing to do: the image shows people, but their boxes were not drawn",
    ),
    "role without a box": (
        "taken as an action without that role's object",
        "an annotation of COCO with a visible box in the same image",
        "Give COCO's instances of both train2014 and val2014",
    ),
    "image not annotated": (
        "image left out",
        "an annotation that was submitted",
        "Annotate it; an image without anybody needs an empty annotation",
    ),
    "several annotations": (
        "one taken: the ground truth, else the first",
        "one annotation of an image",
        "Mark the right one as ground truth",
    ),
    "rotated image": (
        "image left out",
        "an image as its file is",
        "Turn the file itself and annotate it again",
    ),
    "not a labelled rectangle": (
        "left out",
        "rectangles with a label",
        "Draw a rectangle around the thing",
    ),
    "relation without a person": (
        "pair left out",
        "a relation that begins or ends at a person",
        "Correct the relation; --person says which label is the person's",
    ),
    "relation without a verb": (
        "pair left out",
        "a label of the relation, or in CVAT an attribute `verb`",
        "Say what the person does",
    ),
    "relation of no box": (
        "pair left out",
        "a relation between two labelled rectangles",
        "Draw a rectangle around the thing, or delete the relation",
    ),
    "ambiguous group": (
        "its pairs left out",
        "a group of one person with things, or of persons with one thing",
        "Split the group; a box that is in two groups has to be drawn (or copied) twice",
    ),
    "boxes beyond the cap": (
        "the first data.max_objects kept for training",
        "at most data.max_objects boxes in an image",
        "Raise data.max_objects",
    ),
    "pairs beyond the cap": (
        "the first data.max_pairs kept for training",
        "at most data.max_pairs pairs in an image",
        "Raise data.max_pairs",
    ),
}


@dataclass(frozen=True)
class Problem:
    """One broken record: its kind, where it is and what was found there."""

    kind: str
    file: Path
    record: str
    got: str

    def __str__(self) -> str:
        effect, expected, remedy = KINDS[self.kind]
        where = f"{self.file}, {self.record}" if self.record else str(self.file)
        return f"{where}: {self.kind}: {self.got}; expected {expected} ({effect}). {remedy}."


@dataclass
class Problems:
    """All broken records met so far; nothing is dropped without an entry here."""

    items: list[Problem] = field(default_factory=list)

    def add(self, kind: str, file: Path, record: str, got: str) -> None:
        """Note one; `kind` is a key of KINDS."""
        assert kind in KINDS, kind
        self.items.append(Problem(kind, file, record, got))

    @property
    def counts(self) -> Counter:
        """Kind -> number of records."""
        return Counter(problem.kind for problem in self.items)

    def lines(self, limit: int | None = None) -> list[str]:
        """Each problem in full, kind by kind; after `limit` of a kind only how many more."""
        lines = []
        for kind, count in self.counts.most_common():
            shown = count if limit is None else limit
            lines += [str(problem) for problem in self.items if problem.kind == kind][:shown]
            if count > shown:
                lines.append(f"... and {count - shown} more: {kind}")
        return lines

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        """One paragraph a kind: how many, and the first of them in full."""
        first = {}
        for problem in self.items:
            first.setdefault(problem.kind, problem)
        return "\n".join(
            f"{count} x {kind} ({KINDS[kind][0]}), first: {first[kind]}"
            for kind, count in self.counts.most_common()
        )

    def log(self) -> None:
        """Warn on the `ggnet` logger, if there is anything to warn of."""
        if self.items:
            logger.warning("problems in the annotations: %d\n%s", len(self), self)

    def table(self) -> Table:
        """A rich table: kind, count, what happens to such records, what to do about them."""
        table = Table(title=f"problems: {len(self)}")
        for name in ("problem", "count", "effect", "remedy"):
            table.add_column(name, overflow="fold", justify="right" if name == "count" else "left")
        for kind, count in self.counts.most_common():
            effect, _, remedy = KINDS[kind]
            table.add_row(kind, str(count), effect, remedy)
        return table

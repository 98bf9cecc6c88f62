"""One image of the annotation file being written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

Item = TypeVar("Item")


def at(items: Sequence[Item], index: Any) -> Item:
    """items[index] of an index that comes from a file.

    Raises:
        IndexError: it is negative, which Python would count from the end, or too large.
        TypeError: it is not a whole number.
    """
    if index != int(index):
        raise TypeError(f"index {index} is not a whole number")
    if not 0 <= index < len(items):
        raise IndexError(f"index {index} of {len(items)}")
    return items[int(index)]


@dataclass
class Entry:
    """Boxes and pairs of an image, gathered pair by pair."""

    file_name: str
    image_id: str
    known_objects: list[int] | None = None  # ids that image-level labels name
    boxes: dict[tuple, int] = field(default_factory=dict)  # (x1, y1, x2, y2, object id) -> index
    pairs: dict[tuple[int, int, int], None] = field(default_factory=dict)  # an ordered set

    def box(self, box: Sequence[float], object_id: int) -> int:
        """The index of a box; the same box again gets the same index.

        Raises:
            ValueError: it is not four finite numbers.
        """
        x1, y1, x2, y2 = (float(x) for x in box)
        if not math.isfinite(x1 + y1 + x2 + y2):
            raise ValueError(f"box {[x1, y1, x2, y2]} is not finite")
        return self.boxes.setdefault((x1, y1, x2, y2, object_id), len(self.boxes))

    def pair(self, human: int, object_: int, verb_id: int) -> None:
        """Relate two boxes by their indices."""
        self.pairs[human, object_, verb_id] = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; raises as `box`, and nearly anything for another form."""
        entry = cls(str(values["file_name"]), str(values["img_id"]), values.get("known_objects"))
        for row in values["annotations"]:
            entry.box(row["bbox"], row["category_id"])
        for row in values["hoi_annotation"]:
            entry.pair(row["subject_id"], row["object_id"], row["category_id"])
        return entry

    def to_dict(self) -> dict[str, Any]:
        """The form of `ggnet.data.annotations`."""
        values: dict[str, Any] = {
            "file_name": self.file_name,
            "img_id": self.image_id,
            "annotations": [{"bbox": list(row[:4]), "category_id": row[4]} for row in self.boxes],
            "hoi_annotation": [
                {"subject_id": human, "object_id": object_, "category_id": verb}
                for human, object_, verb in self.pairs
            ],
        }
        if self.known_objects is not None:
            values["known_objects"] = self.known_objects
        return values

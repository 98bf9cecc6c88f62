"""The names of a dataset: objects, verbs, and which verb goes with which object."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """Objects and verbs by contiguous index, with the ids that annotation files use.

    `hois` lists the valid pairs as (verb index, object index); its order is the HOI index. Object 0
    is the person.

    Raises:
        ValueError: empty or repeated names, ids or pairs; lengths that disagree; a pair whose
            index is out of range.
    """

    name: str
    objects: tuple[str, ...]
    object_ids: tuple[int, ...]
    verbs: tuple[str, ...]
    verb_ids: tuple[int, ...]
    hois: tuple[tuple[int, int], ...]

    def __post_init__(self):
        for kind in ("object", "verb"):
            names, ids = getattr(self, f"{kind}s"), getattr(self, f"{kind}_ids")
            if not names:
                raise ValueError(f"vocabulary '{self.name}' has no {kind}s; expected at least one")
            if len(names) != len(ids):
                raise ValueError(f"{len(names)} {kind} names but {len(ids)} {kind} ids")
            for values in (names, ids):
                if repeated := sorted({value for value in values if values.count(value) > 1}):
                    raise ValueError(f"{kind}s repeat {repeated[0]!r}; expected each once")
        for verb, object_ in self.hois:
            if not (0 <= verb < len(self.verbs) and 0 <= object_ < len(self.objects)):
                raise ValueError(
                    f"HOI pair ({verb}, {object_}) is out of range; there are {len(self.verbs)} "
                    f"verbs and {len(self.objects)} objects"
                )
        if len(set(self.hois)) != len(self.hois):
            raise ValueError("the HOI pairs repeat; expected each (verb, object) once")

    @cached_property
    def hoi_table(self) -> np.ndarray:
        """(V, num_objects) int64: the HOI index of each (verb, object), -1 where invalid."""
        table = np.full((len(self.verbs), len(self.objects)), -1, dtype=np.int64)
        for index, pair in enumerate(self.hois):
            table[pair] = index
        table.setflags(write=False)
        return table

    @cached_property
    def valid_pairs(self) -> np.ndarray:
        """(V, num_objects) bool: whether the verb goes with the object."""
        valid = self.hoi_table >= 0
        valid.setflags(write=False)
        return valid

    def hoi_index(self, verb, object_):
        """HOI index of verb and object indices (numbers or arrays alike); -1 where invalid."""
        return self.hoi_table[verb, object_]

    def hoi_name(self, hoi: int) -> str:
        """For people, e.g. 'ride bicycle'."""
        verb, object_ = self.hois[hoi]
        return f"{self.verbs[verb]} {self.objects[object_]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as checkpoints and prediction files store them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Vocabulary":
        """The inverse of `to_dict`, also after a round trip through JSON."""
        return cls(
            name=values["name"],
            objects=tuple(values["objects"]),
            object_ids=tuple(values["object_ids"]),
            verbs=tuple(values["verbs"]),
            verb_ids=tuple(values["verb_ids"]),
            hois=tuple((int(verb), int(object_)) for verb, object_ in values["hois"]),
        )

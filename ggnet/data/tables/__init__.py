"""The category tables of COCO, HICO-DET and V-COCO, as data files with their sources."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any

import numpy as np

from ggnet.data.vocabulary import Vocabulary


@cache
def read_table(name: str) -> dict[str, Any]:
    """A table by name: "coco", "hico" or "vcoco"."""
    return json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def hico_vocabulary() -> Vocabulary:
    """HICO-DET: 80 objects by COCO id, 117 verbs by ids 1 to 117, 600 HOIs in official order."""
    coco, hico = read_table("coco"), read_table("hico")
    return Vocabulary(
        name="hico-det",
        objects=tuple(coco["names"]),
        object_ids=tuple(coco["ids"]),
        verbs=tuple(hico["verbs"]),
        verb_ids=tuple(range(1, len(hico["verbs"]) + 1)),
        hois=tuple((verb, object_) for verb, object_ in hico["hois"]),
    )


def hico_rare() -> np.ndarray:
    """(600,) bool: HOIs with fewer than 10 training instances."""
    rare = np.zeros(len(read_table("hico")["hois"]), dtype=bool)
    rare[read_table("hico")["rare"]] = True
    return rare


@dataclass(frozen=True)
class VcocoAction:
    """An action of V-COCO and the roles that an object can have in it."""

    name: str
    roles: tuple[str, ...]


def vcoco_actions() -> tuple[VcocoAction, ...]:
    """The 26 official actions; together they have 25 roles."""
    rows = read_table("vcoco")["actions"]
    return tuple(VcocoAction(row["name"], tuple(row["roles"])) for row in rows)


def vcoco_numbering(source: str) -> Vocabulary:
    """V-COCO's 29 verbs in the order of their ids in the files of `source` ("vcoco-ppdm" or
    "vcoco-qpic"); those without a role included, all pairs valid."""
    names = read_table("vcoco")[{"vcoco-ppdm": "verbs", "vcoco-qpic": "verbs_qpic"}[source]]
    all_pairs = product(range(len(names)), range(len(read_table("coco")["names"])))
    return replace(
        vcoco_vocabulary(()),
        verbs=tuple(names),
        verb_ids=tuple(range(len(names))),
        hois=tuple(all_pairs),
    )


def vcoco_possible(verbs: Sequence[str]) -> np.ndarray:
    """(verbs, 80) bool: false where a verb cannot go with an object; known for those that go with
    few, and for those that go with none."""
    telltale, objects = read_table("vcoco")["telltale"], read_table("coco")["names"]
    with_role = set(vcoco_vocabulary(()).verbs)
    rows = [
        [verb in with_role and name in telltale.get(verb, objects) for name in objects]
        for verb in verbs
    ]
    return np.array(rows)


def vcoco_vocabulary(pairs: Iterable[tuple[int, int]] | None = None) -> Vocabulary:
    """V-COCO: 80 objects by COCO id, the 25 action-roles by the ids of iCAN, PPDM and GGNet.

    Args:
        pairs: valid (verb index, object index), to be taken from the annotations of trainval alone:
            with those of the test split a model would know what to expect there. None: all.
    """
    coco = read_table("coco")
    with_role = {f"{action.name}_{role}" for action in vcoco_actions() for role in action.roles}
    verbs = {
        id_: name for id_, name in enumerate(read_table("vcoco")["verbs"]) if name in with_role
    }
    if pairs is None:
        pairs = ((v, o) for v in range(len(verbs)) for o in range(len(coco["names"])))
    return Vocabulary(
        name="v-coco",
        objects=tuple(coco["names"]),
        object_ids=tuple(coco["ids"]),
        verbs=tuple(verbs.values()),
        verb_ids=tuple(verbs),
        hois=tuple(sorted(set(pairs))),
    )

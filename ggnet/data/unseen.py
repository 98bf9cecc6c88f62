"""HOIs that training never sees, but that count in the metric: zero-shot HOI detection.

The protocol is that of the published code (GEN-VLKT's datasets/hico.py): two boxes with any unseen
HOI are left out of training with all their verbs, and so is an image with no pair left. The boxes
of the other images stay, since those detectors know all objects: unseen are combinations, not
things. (Where `ggnet data convert` has merged boxes that were drawn anew for each verb, a pair with
an unseen HOI is the merged one, so that more verbs go with it than in the published code.) Nor is
an unseen HOI a hard negative anywhere, as that would tell that it never occurs.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ggnet.config import DataConfig
from ggnet.data.annotations import Dataset, ImageRecord, load_dataset, pair_hois, read_json
from ggnet.data.tables import hico_vocabulary, read_table
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader

# The published splits of HICO-DET: unseen composition (rare first, non-rare first), object, verb.
PUBLISHED = ("rf-uc", "nf-uc", "uo", "uv")


@dataclass(frozen=True, eq=False)
class Unseen:
    """Which HOIs training does not see."""

    name: str  # of PUBLISHED, else how many they are
    hois: np.ndarray  # (HOIs,) bool


def open_dataset(config: DataConfig) -> Dataset:
    """The dataset of a configuration, with its unseen HOIs.

    Raises:
        UserError: as `load_dataset` and `read_unseen`.
    """
    dataset = load_dataset(config.root)
    if config.hois_unseen is None:
        return dataset
    if roles := [name for name, split in dataset.splits.items() if split.roles]:
        raise UserError(
            f"data.hois_unseen is set, but split '{roles[0]}' of {config.root} is scored by "
            "V-COCO's metric, whose classes are no HOIs. Leave it out, or use a dataset without "
            "roles"
        )
    return replace(dataset, unseen=read_unseen(config.hois_unseen, dataset.vocabulary))


def fix_unseen(config: DataConfig, dataset: Dataset) -> DataConfig:
    """The configuration with the HOIs themselves in place of a file that may change later."""
    value = config.hois_unseen
    if not isinstance(value, str) or value.lower() in PUBLISHED:
        return config
    return config.model_copy(
        update={"hois_unseen": tuple(np.flatnonzero(dataset.unseen.hois).tolist())}
    )


@reader("HOIs that training must not see")
def read_unseen(value: str | Sequence[int], vocabulary: Vocabulary) -> Unseen:
    """The HOIs that `data.hois_unseen` means.

    Args:
        value: a name of PUBLISHED, a JSON file with a list, or the list. Its items are indices of
            HOIs in the order of the dataset, in a file also [verb, object] by their names.

    Raises:
        UserError: no such name or file, an HOI that the dataset does not have, none at all or all
            of them.
    """
    if not isinstance(value, str):
        items, origin, name = list(value), "data.hois_unseen", ""
    elif value.lower() in PUBLISHED:
        official = hico_vocabulary()
        items = [_names(official, hoi) for hoi in read_table("zero_shot")[value.lower()]]
        origin = name = value.lower()
    elif value.endswith(".json") or Path(value).exists():
        items, origin, name = read_json(Path(value)), value, ""
        if not isinstance(items, list):
            raise UserError(f"{value} holds a {type(items).__name__}; expected a list of HOIs")
    else:
        match = difflib.get_close_matches(value.lower(), PUBLISHED, n=1, cutoff=0.4)
        hint = f"; did you mean '{match[0]}'?" if match else ""
        raise UserError(
            f"data.hois_unseen is '{value}'{hint}. Expected {', '.join(PUBLISHED)} (HICO-DET's "
            "published zero-shot splits) or a JSON file with a list of HOIs"
        )
    hois = np.zeros(len(vocabulary.hois), dtype=bool)
    for item in items:
        hois[_index(item, vocabulary, origin)] = True
    if not hois.any():
        raise UserError(f"{origin} lists no HOI; leave out data.hois_unseen to train on all")
    if hois.all():
        raise UserError(f"{origin} lists all {len(hois)} HOIs; none would be left to train on")
    return Unseen(name or f"{hois.sum()} of {len(hois)} HOIs", hois)


def training_records(dataset: Dataset) -> list[ImageRecord]:
    """The records of the split `train` without what must not be seen.

    Raises:
        UserError: as `Dataset.load`; no image is left.
    """
    records = dataset.load("train")
    if dataset.unseen is None:
        return records
    kept = without_unseen(records, dataset)
    if not any(len(record.pairs) for record in kept):
        raise UserError(
            f"no pair of {dataset.root} is left to train on without the unseen HOIs "
            f"({dataset.unseen.name}); expected fewer of them"
        )
    return kept


def without_unseen(records: Iterable[ImageRecord], dataset: Dataset) -> list[ImageRecord]:
    """The records without the pairs, and without the images, that an unseen HOI is in."""
    kept = []
    for record in records:
        hois = pair_hois(record, dataset.vocabulary)
        unseen = (hois >= 0) & dataset.unseen.hois[hois]
        boxes = {tuple(pair) for pair in record.pairs[unseen, :2].tolist()}
        stay = [tuple(pair) not in boxes for pair in record.pairs[:, :2].tolist()]
        if any(stay) or not stay:
            pairs = record.pairs[np.array(stay, dtype=bool)]
            kept.append(replace(record, pairs=pairs))
    return kept


def training_vocabulary(dataset: Dataset) -> Vocabulary:
    """The vocabulary whose HOIs are those that training may know of."""
    if dataset.unseen is None:
        return dataset.vocabulary
    hois = zip(dataset.vocabulary.hois, dataset.unseen.hois, strict=True)
    return replace(dataset.vocabulary, hois=tuple(hoi for hoi, unseen in hois if not unseen))


def _index(item: object, vocabulary: Vocabulary, origin: str) -> int:
    count = len(vocabulary.hois)
    if type(item) is int and 0 <= item < count:
        return item
    if isinstance(item, list | tuple) and len(item) == 2:
        names = [_names(vocabulary, hoi) for hoi in range(count)]
        if tuple(item) in names:
            return names.index(tuple(item))
        if origin in PUBLISHED:
            raise UserError(
                f"data.hois_unseen is {origin}, which is a split of HICO-DET's HOIs; "
                f"{vocabulary.name} has no '{item[0]} {item[1]}'. Give a JSON file with a list"
            )
        known = [" ".join(pair) for pair in names]
        match = difflib.get_close_matches(" ".join(map(str, item)), known, n=1)
        hint = f"; did you mean {list(names[known.index(match[0])])}?" if match else ""
        raise UserError(f"{origin}: {vocabulary.name} has no HOI {item!r}{hint}")
    raise UserError(
        f"{origin}: {item!r} is no HOI; expected an index from 0 to {count - 1} or [verb, object]"
    )


def _names(vocabulary: Vocabulary, hoi: int) -> tuple[str, str]:
    verb, object_ = vocabulary.hois[hoi]
    return vocabulary.verbs[verb], vocabulary.objects[object_]

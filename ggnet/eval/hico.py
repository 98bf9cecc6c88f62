"""HICO-DET's metric: mean average precision over HOI classes, Default and Known-Object.

Boxes are edges in pixels, 0-based (see `ggnet.data.annotations`). The official evaluator counts
inclusive pixels: ground truth from 1, predictions from 0 and moved by 1, widths with 1 added.
Expressed in edges that is the plain overlap, so the readers of foreign files convert and the
metric needs no convention of its own.

Protocols, by the evaluator that they follow:

- "official" (ywchao/ho-rcnn, MATLAB): a detection goes to the ground-truth pair of its image and
  class with the largest min(human IoU, object IoU); it is correct if that is at least 0.5 and the
  pair is still free, else a false positive.
- "ppdm" (PPDM's and GGNet's hico_eval.py): the same, but classes without any training instance are
  neither rare nor non-rare.
- "no-frills" (hico_eval_de_ko.py): a detection takes the first free pair, in file order, whose
  IoUs both exceed 0.5; boxes that share no more than one row or column of pixels do not overlap;
  a class without detections has AP 0 even if it has no ground truth.

AP has 11 points. A recall of exactly 3/10, 6/10 or 7/10 reaches the point in exact arithmetic
(`recall_points="exact"`, the default) and misses it in double precision, as the official script
computes under Octave (`recall_points="double"`); on HICO-DET this moves mAP by about 0.03. A class
without ground truth has no AP and is left out of the means (HICO-DET's test set has none).
Of ground-truth pairs that a detection overlaps equally, the first in the file counts. Equal scores
are ordered by image id and boxes, so results do not depend on the order of the predictions (in
"no-frills", by image id and then the order in the file, as there).
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ggnet.data.annotations import ImageRecord, pair_hois
from ggnet.data.unseen import Unseen
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval.boxes import best_candidate, candidates, iou
from ggnet.eval.curve import Curve
from ggnet.eval.predictions import ImagePrediction
from ggnet.io import atomic_write

MIN_IOU = 0.5
CURVES = 30  # of the most frequent HOIs


@dataclass(frozen=True)
class Protocol:
    """What distinguishes one evaluator from another."""

    first_match: bool = False  # first free pair with IoUs > 0.5 instead of the best with >= 0.5
    unseen_have_group: bool = True  # classes without training instances count as rare
    silent_is_zero: bool = False  # no detections: AP 0, whether or not there is ground truth


PROTOCOLS = {
    "official": Protocol(),
    "ppdm": Protocol(unseen_have_group=False),
    "no-frills": Protocol(first_match=True, silent_is_zero=True),
}
SETTINGS = ("default", "known-object")


@dataclass(eq=False)
class HicoResult:
    """Average precision per HOI and its means; all figures are percentages."""

    vocabulary: Vocabulary
    protocol: str
    recall_points: str
    ap: dict[str, np.ndarray]  # setting -> (HOIs,) AP, NaN without ground truth
    recall: np.ndarray  # (HOIs,) highest recall, Default setting
    ground_truth: np.ndarray  # (HOIs,) number of pairs
    predicted: np.ndarray  # (HOIs,) number of predicted triplets
    groups: dict[str, np.ndarray]  # "full" and, if known, "rare", "non-rare", "seen", "unseen":
    # (HOIs,) bool
    invalid_predictions: int  # predicted (verb, object) pairs outside the vocabulary, not scored
    invalid_ground_truth: int  # annotated ones
    curves: list[tuple[np.ndarray, np.ndarray]]  # per HOI: precision, recall (Default), fractions
    unseen: str | None = None  # the name of the set of unseen HOIs

    def mean_ap(self, setting: str = "default", group: str = "full") -> float:
        """mAP of a setting ("default", "known-object") and group (a key of `groups`)."""
        values = self.ap[setting][self.groups[group]]
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def summary(self) -> dict[str, dict[str, float]]:
        """Setting -> group -> mAP."""
        return {
            setting: {group: self.mean_ap(setting, group) for group in self.groups}
            for setting in SETTINGS
        }

    def headline(self) -> dict[str, float]:
        """mAP, and of each group and Known-Object, where they exist."""
        means = {"mAP": self.mean_ap()}
        for group in self.groups:
            if group != "full":
                means[f"mAP_{group.replace('-', '_')}"] = self.mean_ap(group=group)
        means["mAP_known_object"] = self.mean_ap("known-object")
        return {name: value for name, value in means.items() if not np.isnan(value)}

    def named_curves(self) -> dict[str, Curve]:
        """HOI -> curve (Default) of the most frequent HOIs with annotated pairs."""
        frequent = np.argsort(-self.ground_truth, kind="stable")[:CURVES].tolist()
        return {
            self.vocabulary.hoi_name(hoi): Curve(
                *self.curves[hoi], float(self.ap["default"][hoi]), int(self.ground_truth[hoi])
            )
            for hoi in frequent
            if self.ground_truth[hoi]
        }

    def hoi_ap(self, setting: str = "default") -> "HoiAP":
        """AP by HOI in one setting."""
        rare = self.groups.get("rare", np.zeros(len(self.vocabulary.hois), bool))
        names = [self.vocabulary.hoi_name(hoi) for hoi in range(len(rare))]
        return HoiAP(setting, names, self.ap[setting], rare, self.mean_ap(setting))

    def table(self) -> Table:
        """The means as a rich table."""
        title = f"HICO mAP, {self.protocol} protocol, {self.recall_points} recall points"
        if self.unseen is not None:
            title += f", unseen: {self.unseen}"
        table = Table(title=title)
        table.add_column("setting")
        for group in self.groups:
            classes = int((self.groups[group] & (self.ground_truth > 0)).sum())
            table.add_column(f"{group} ({classes} HOIs)", justify="right")
        for setting, means in self.summary().items():
            table.add_row(setting, *(f"{value:.2f}" for value in means.values()))
        return table

    def class_table(self) -> Table:
        """Every HOI as a rich table, best first."""
        table = Table(title="AP of each HOI")
        for name in ("HOI", "AP", "Known-Object", "recall", "pairs", "predicted"):
            table.add_column(name, justify="left" if name == "HOI" else "right")
        rows = sorted(self._rows(), key=lambda row: -np.nan_to_num(row["ap_default"], nan=-1.0))
        for row in rows:
            figures = (row["ap_default"], row["ap_known_object"], row["max_recall"])
            table.add_row(
                f"{row['verb']} {row['object']}",
                *(f"{value:.2f}" for value in figures),
                str(row["ground_truth"]),
                str(row["detections"]),
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Plain values; NaN becomes None."""
        return {
            "metric": "HICO mAP",
            "protocol": self.protocol,
            "points": self.recall_points,
            "unseen": self.unseen,
            "mean_ap": {
                setting: {group: _plain(value) for group, value in means.items()}
                for setting, means in self.summary().items()
            },
            "invalid_predictions": self.invalid_predictions,
            "invalid_ground_truth": self.invalid_ground_truth,
            "classes": [
                {name: _plain(value) for name, value in row.items()} for row in self._rows()
            ],
        }

    def to_csv(self, path: str | Path) -> None:
        """Write one row for each HOI."""
        with atomic_write(path, "w") as file:
            writer = csv.DictWriter(file, list(self._rows()[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for hoi, (verb, object_) in enumerate(self.vocabulary.hois):
            group = [name for name in ("rare", "non-rare") if self._in_group(name, hoi)]
            unseen = {} if self.unseen is None else {"unseen": self._in_group("unseen", hoi)}
            rows.append(
                {
                    "hoi": hoi,
                    "verb": self.vocabulary.verbs[verb],
                    "object": self.vocabulary.objects[object_],
                    "group": group[0] if group else "",
                    **unseen,
                    "ground_truth": int(self.ground_truth[hoi]),
                    "detections": int(self.predicted[hoi]),
                    "max_recall": float(self.recall[hoi]),
                    "ap_default": float(self.ap["default"][hoi]),
                    "ap_known_object": float(self.ap["known-object"][hoi]),
                }
            )
        return rows

    def _in_group(self, name: str, hoi: int) -> bool:
        return name in self.groups and bool(self.groups[name][hoi])


@dataclass(frozen=True, eq=False)
class HoiAP:
    """AP of each HOI, in percent; NaN without ground truth."""

    setting: str
    names: list[str]
    ap: np.ndarray  # (HOIs,)
    rare: np.ndarray  # (HOIs,) bool
    mean: float


def evaluate(
    predictions: Iterable[ImagePrediction],
    records: Sequence[ImageRecord],
    vocabulary: Vocabulary,
    *,
    train_counts: np.ndarray | None = None,
    rare_threshold: int = 10,
    rare: np.ndarray | None = None,
    protocol: str = "official",
    recall_points: str = "exact",
    unseen: Unseen | None = None,
) -> HicoResult:
    """Score predictions against the records of a split.

    Args:
        predictions: aligned with `records` by image_id; an image without any is one without
            detections.
        train_counts: (HOIs,) training instances (`hoi_counts`); HOIs with fewer than
            `rare_threshold` are rare.
        rare: (HOIs,) bool instead of `train_counts`, where only the list of rare HOIs is known.
            Without both, there are no rare and non-rare means.
        protocol: "official", "ppdm" or "no-frills"; see the module.
        recall_points: "exact" or "double"; see the module.
        unseen: HOIs that were kept from training; they and the others get means of their own.

    Raises:
        UserError: a prediction of an image that is not in `records`, or two of the same image.
        ValueError: an unknown protocol or recall points.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    if recall_points not in ("exact", "double"):
        raise ValueError(f"recall_points is {recall_points!r}; expected exact or double")
    rules = PROTOCOLS[protocol]
    order = _order(records)
    truth, invalid_truth = _ground_truth(records, order, vocabulary)
    found, invalid_found = _triplets(predictions, order, vocabulary)
    if rules.first_match:
        found = found.take(np.lexsort([found.images, -found.scores, found.hois]))
    else:
        found = found.sorted_by(found.hois, -found.scores)
    correct = _match_first(found, truth) if rules.first_match else _match_best(found, truth)

    known = _known_images(records, order, vocabulary)
    count = len(vocabulary.hois)
    object_of = np.array([object_ for _, object_ in vocabulary.hois], dtype=np.int64)
    bounds = np.searchsorted(found.hois, np.arange(count + 1))
    positives = np.bincount(truth.hois, minlength=count)
    in_known = known[truth.images, object_of[truth.hois]]
    known_positives = np.bincount(truth.hois[in_known], minlength=count)
    ap = {setting: np.full(count, np.nan) for setting in SETTINGS}
    recall, curves = np.full(count, np.nan), []
    for hoi in range(count):
        mine = slice(bounds[hoi], bounds[hoi + 1])
        tp = correct[mine]
        kept = known[found.images[mine], object_of[hoi]]
        ap["default"][hoi] = _average_precision(tp, positives[hoi], recall_points, rules)
        ap["known-object"][hoi] = _average_precision(
            tp[kept], known_positives[hoi], recall_points, rules
        )
        hits = np.cumsum(tp)
        curve = hits / np.arange(1, len(tp) + 1), hits / max(positives[hoi], 1)
        if positives[hoi]:
            recall[hoi] = 100 * hits[-1] / positives[hoi] if len(hits) else 0.0
        curves.append(curve)
    return HicoResult(
        vocabulary=vocabulary,
        protocol=protocol,
        recall_points=recall_points,
        ap=ap,
        recall=recall,
        ground_truth=positives,
        predicted=np.diff(bounds),
        groups=_groups(count, train_counts, rare_threshold, rare, rules, unseen),
        invalid_predictions=invalid_found,
        invalid_ground_truth=invalid_truth,
        curves=curves,
        unseen=None if unseen is None else unseen.name,
    )


def pooled_matches(
    predictions: Iterable[ImagePrediction],
    records: Sequence[ImageRecord],
    vocabulary: Vocabulary,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Which predicted triplets the official protocol counts as correct, all HOIs taken together.

    Returns:
        The (n,) float64 scores, (n,) bool and the number of annotated pairs. Triplets and pairs
        of no HOI class are left out.

    Raises:
        UserError: as `evaluate`.
    """
    order = _order(records)
    truth, _ = _ground_truth(records, order, vocabulary)
    found, _ = _triplets(predictions, order, vocabulary)
    found = found.sorted_by(found.hois, -found.scores)
    return found.scores, _match_best(found, truth), len(truth.hois)


@dataclass(eq=False)
class _Rows:
    """Pairs of many images in columns."""

    images: np.ndarray  # (n,) rank of the image
    hois: np.ndarray  # (n,)
    humans: np.ndarray  # (n, 4) float64
    objects: np.ndarray  # (n, 4) float64
    scores: np.ndarray  # (n,) float64; 0 for ground truth

    def sorted_by(self, *keys: np.ndarray) -> "_Rows":
        """In the order of `keys`, the most significant first; ties by image and boxes."""
        ties = (self.images, *self.humans.T, *self.objects.T)
        return self.take(np.lexsort([*reversed(ties), *reversed(keys)]))

    def take(self, index: np.ndarray) -> "_Rows":
        """Rows chosen by number or by a bool each."""
        columns = self.images, self.hois, self.humans, self.objects, self.scores
        return _Rows(*(column[index] for column in columns))


def _order(records: Sequence[ImageRecord]) -> dict[str, int]:
    """Image id -> rank."""
    return {image_id: rank for rank, image_id in enumerate(sorted(r.image_id for r in records))}


def _ground_truth(
    records: Sequence[ImageRecord], order: dict[str, int], vocabulary: Vocabulary
) -> tuple[_Rows, int]:
    """Annotated pairs by image and HOI, equals in file order, and how many are of no HOI class."""
    if len(order) < len(records):
        raise UserError("image ids repeat among the records; expected each image once")
    pairs = [record.pairs for record in records]
    rows = _Rows(
        _image_column([order[record.image_id] for record in records], pairs),
        _concatenate([pair_hois(record, vocabulary) for record in records], np.int64),
        _concatenate([r.boxes[r.pairs[:, 0]] for r in records], np.float64).reshape(-1, 4),
        _concatenate([r.boxes[r.pairs[:, 1]] for r in records], np.float64).reshape(-1, 4),
        np.zeros(sum(len(p) for p in pairs)),
    )
    rows, invalid = _valid(rows)
    return rows.take(np.lexsort([rows.hois, rows.images])), invalid


def _triplets(
    predictions: Iterable[ImagePrediction], order: dict[str, int], vocabulary: Vocabulary
) -> tuple[_Rows, int]:
    """Predicted pairs in file order, and how many are of no HOI class."""
    predictions = list(predictions)
    seen: set[str] = set()
    for prediction in predictions:
        problem = None
        if prediction.image_id not in order:
            problem = "is not in the annotations"
        elif prediction.image_id in seen:
            problem = "has two predictions"
        if problem:
            raise UserError(
                f"image {prediction.image_id} ({prediction.file_name}) {problem}; expected at most "
                "one entry for each annotated image. Are these predictions of another split?"
            )
        seen.add(prediction.image_id)
    rows = _Rows(
        _image_column([order[p.image_id] for p in predictions], predictions),
        _concatenate(
            [vocabulary.hoi_index(p.verbs, p.object_labels) for p in predictions], np.int64
        ),
        _concatenate([p.human_boxes for p in predictions], np.float64).reshape(-1, 4),
        _concatenate([p.object_boxes for p in predictions], np.float64).reshape(-1, 4),
        _concatenate([p.scores for p in predictions], np.float64),
    )
    return _valid(rows)


def _image_column(ranks: list[int], parts: Sequence) -> np.ndarray:
    counts = np.array([len(part) for part in parts], dtype=np.int64)
    return np.repeat(np.array(ranks, dtype=np.int64), counts)


def _concatenate(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype) if parts else np.zeros(0, dtype)


def _valid(rows: _Rows) -> tuple[_Rows, int]:
    """The rows of an HOI class, and how many are of none."""
    keep = rows.hois >= 0
    return rows.take(keep), int((~keep).sum())


def _overlaps(found: _Rows, truth: _Rows) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every (detection, ground truth) of the same image and HOI, with min(human IoU, object IoU).

    In chunks; a detection's ground truths come in order and in one chunk.
    """
    width = max(int(rows.hois.max(initial=0)) for rows in (found, truth)) + 1
    keys, targets = (rows.images * width + rows.hois for rows in (found, truth))
    for detection, target in candidates(keys, targets):
        overlap = np.minimum(
            iou(found.humans[detection], truth.humans[target]),
            iou(found.objects[detection], truth.objects[target]),
        )
        yield detection, target, overlap


def _match_best(found: _Rows, truth: _Rows) -> np.ndarray:
    """(detections,) bool: whether each is the highest-scored one of the pair that it overlaps most.

    A detection's pair does not depend on the others, so the greedy assignment is: of all detections
    of a pair, the first is correct.
    """
    best = np.full(len(found.hois), -1, dtype=np.int64)
    for detection, target, overlap in _overlaps(found, truth):
        rows = best_candidate(detection, target, overlap)
        rows = rows[overlap[rows] >= MIN_IOU]
        best[detection[rows]] = target[rows]
    correct = np.zeros(len(best), dtype=bool)
    matched = np.flatnonzero(best >= 0)
    correct[matched[np.unique(best[matched], return_index=True)[1]]] = True
    return correct


def _match_first(found: _Rows, truth: _Rows) -> np.ndarray:
    """(detections,) bool: whether each finds a free pair with IoUs above the limit; it takes the
    first of them."""
    correct = np.zeros(len(found.hois), dtype=bool)
    taken = np.zeros(len(truth.hois), dtype=bool)
    for detection, target, overlap in _overlaps(found, truth):
        close = overlap > MIN_IOU
        for a, b in ((found.humans, truth.humans), (found.objects, truth.objects)):
            close &= _share_pixels(a[detection], b[target])
        for d, t in zip(detection[close].tolist(), target[close].tolist(), strict=True):
            if not correct[d] and not taken[t]:
                correct[d] = taken[t] = True
    return correct


def _share_pixels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) bool: whether boxes (n, 4) share more than one row and column of pixels."""
    return (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) > 1).all(axis=1)


def _known_images(
    records: Sequence[ImageRecord], order: dict[str, int], vocabulary: Vocabulary
) -> np.ndarray:
    """(images, objects) bool: where the Known-Object setting looks for an object's HOIs.

    Image-level labels where the records have them, else the objects of the annotated pairs.
    """
    known = np.zeros((len(records), len(vocabulary.objects)), dtype=bool)
    for record in records:
        labels = record.known_objects
        if labels is None:
            labels = record.labels[record.pairs[:, 1]]
        known[order[record.image_id], labels] = True
    return known


def _groups(
    count: int,
    train_counts: np.ndarray | None,
    rare_threshold: int,
    rare: np.ndarray | None,
    rules: Protocol,
    unseen: Unseen | None,
) -> dict[str, np.ndarray]:
    groups = {"full": np.ones(count, dtype=bool)}
    if train_counts is not None:
        rare = train_counts < rare_threshold
    if rare is not None:
        groups |= {"rare": rare, "non-rare": ~rare}
    if train_counts is not None and not rules.unseen_have_group:
        groups["rare"] = rare & (train_counts > 0)
    if unseen is not None:
        groups |= {"seen": ~unseen.hois, "unseen": unseen.hois}
    return groups


def _average_precision(
    correct: np.ndarray, positives: int, recall_points: str, rules: Protocol
) -> float:
    """11-point AP in percent of detections by falling score; NaN without ground truth."""
    if rules.silent_is_zero and not len(correct):
        return 0.0
    if not positives:
        return float("nan")
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(hits) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    tenths = np.arange(11)
    if recall_points == "exact":
        reached = np.searchsorted(hits * 10, tenths * positives)
    else:
        reached = np.searchsorted(hits / positives, tenths * 0.1)
    return float(100 * best_from[reached[reached < len(hits)]].sum() / 11)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and np.isnan(value) else value

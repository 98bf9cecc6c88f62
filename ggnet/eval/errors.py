"""Why detections are wrong: the mAP's false positives by cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from ggnet.data.annotations import ImageRecord, hoi_counts
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.boxes import iou
from ggnet.eval.hico import MIN_IOU
from ggnet.eval.predictions import ImagePrediction

CAUSES = {
    "correct": "matches an annotated pair",
    "duplicate": "matches an annotated pair that a better-scored detection has",
    "wrong verb": "the boxes of an annotated pair, with a verb that it does not have",
    "wrong object class": "the boxes and verb of an annotated pair, with another object",
    "wrong pairing": "boxes of an annotated person and object that are not a pair",
    "wrong human box": "object and verb of an annotated pair, the human box is off",
    "wrong object box": "human and verb of an annotated pair, the object box is off",
    "background": "none of these",
}


@dataclass(frozen=True)
class ErrorBreakdown:
    """How many of the looked-at detections have which cause."""

    counts: Counter

    def table(self) -> Table:
        """Cause, count and share as a rich table."""
        total = max(self.counts.total(), 1)
        table = Table(title=f"The {self.counts.total()} best-scored detections by cause")
        for name in ("cause", "detections", "share", "meaning"):
            table.add_column(name, justify="right" if name in ("detections", "share") else "left")
        for cause, meaning in CAUSES.items():
            share = 100 * self.counts[cause] / total
            table.add_row(cause, str(self.counts[cause]), f"{share:.1f} %", meaning)
        return table

    def to_dict(self) -> dict[str, int]:
        """Cause -> count."""
        return {cause: self.counts[cause] for cause in CAUSES}


def error_breakdown(
    predictions: Sequence[ImagePrediction], records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> ErrorBreakdown:
    """Sort each HOI class's best-scored detections, as many as it has annotated pairs, by cause.

    As many as there are pairs: a perfect detector would have only correct ones among them. Matching
    is that of HICO's official protocol. The causes are tried in the order of CAUSES.
    """
    by_id = {record.image_id: record for record in records}
    counts: Counter = Counter()
    for prediction, rows in zip(
        predictions, counted(predictions, records, vocabulary), strict=True
    ):
        if rows.any():
            causes, _ = triplet_causes(prediction, by_id[prediction.image_id], rows)
            counts.update(list(CAUSES)[cause] for cause in causes[rows].tolist())
    return ErrorBreakdown(counts)


def counted(
    predictions: Sequence[ImagePrediction], records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> list[np.ndarray]:
    """For each prediction (n,) bool: which triplets an `error_breakdown` looks at.

    Equal scores are ordered by image id, then as in the prediction.
    """
    wanted = hoi_counts(records, vocabulary)
    lengths = [len(prediction) for prediction in predictions]
    order = {id_: rank for rank, id_ in enumerate(sorted({p.image_id for p in predictions}))}
    images = np.repeat(np.array([order[p.image_id] for p in predictions], np.int64), lengths)
    rows = np.concatenate([np.zeros(0, np.int64), *(np.arange(length) for length in lengths)])
    scores = np.concatenate([np.zeros(0), *(p.scores for p in predictions)])
    hois = np.concatenate(
        [
            np.zeros(0, np.int64),
            *(vocabulary.hoi_index(p.verbs, p.object_labels) for p in predictions),
        ]
    )
    best_first = np.lexsort([rows, images, -scores, hois])
    best_first = best_first[hois[best_first] >= 0]
    ranked = hois[best_first]
    rank = np.arange(len(ranked)) - np.searchsorted(ranked, ranked)  # within the HOI
    chosen = np.zeros(len(hois), dtype=bool)
    chosen[best_first[rank < wanted[ranked]]] = True
    return np.split(chosen, np.cumsum(lengths)[:-1]) if lengths else []


def triplet_causes(
    prediction: ImagePrediction, record: ImageRecord, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What is right or wrong with each triplet of an image.

    Args:
        rows: (n,) bool, the triplets to look at; the others are as if they did not exist.

    Returns:
        (n,) int64 index into CAUSES, and (n,) int64 row of `record.pairs` that the triplet
        matches, -1 where it is neither correct nor a duplicate.
    """
    count, boxes = len(prediction), len(record.boxes)
    label = prediction.object_labels[:, None]
    human, object_, verbs = record.pairs.T
    human_iou, object_iou = (
        iou(np.repeat(found, boxes, 0), np.tile(record.boxes, (count, 1))).reshape(count, boxes)
        for found in (prediction.human_boxes, prediction.object_boxes)
    )
    human_fits, object_fits = human_iou >= MIN_IOU, object_iou >= MIN_IOU
    both = human_fits[:, human] & object_fits[:, object_]
    same_class = record.labels[object_] == label
    same_verb = verbs == prediction.verbs[:, None]
    same_hoi = same_class & same_verb
    of_boxes = (human_fits & (record.labels == 0)).any(1) & (
        object_fits & (record.labels == label)
    ).any(1)
    applies = {
        "wrong verb": (both & same_class).any(1),
        "wrong object class": (both & same_verb).any(1),
        "wrong pairing": of_boxes,
        "wrong human box": (object_fits[:, object_] & same_hoi).any(1),
        "wrong object box": (human_fits[:, human] & same_hoi).any(1),
        "background": np.ones(count, dtype=bool),
    }
    names = list(CAUSES)
    causes = np.select(list(applies.values()), [names.index(name) for name in applies])
    pairs = np.full(count, -1)
    matches = np.flatnonzero((both & same_hoi).any(1))
    if len(matches):
        overlap = np.minimum(human_iou[:, human], object_iou[:, object_])
        pairs[matches] = np.where(both & same_hoi, overlap, -1)[matches].argmax(1)
    taken: set[int] = set()
    for row in matches[np.argsort(-prediction.scores[matches], kind="stable")].tolist():
        if rows is None or rows[row]:
            repeated = int(pairs[row]) in taken
            causes[row] = names.index("duplicate" if repeated else "correct")
            taken.add(int(pairs[row]))
    return causes, pairs

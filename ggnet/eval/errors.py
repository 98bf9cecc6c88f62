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
    wanted = hoi_counts(records, vocabulary)
    by_id = {record.image_id: record for record in records}
    scored = [
        (-float(score), prediction.image_id, row, hoi, number)
        for number, prediction in enumerate(predictions)
        for row, (score, hoi) in enumerate(
            zip(
                prediction.scores,
                vocabulary.hoi_index(prediction.verbs, prediction.object_labels).tolist(),
                strict=True,
            )
        )
        if hoi >= 0
    ]
    scored.sort()
    looked_at, chosen = Counter(), []
    for row in scored:
        if looked_at[row[3]] < wanted[row[3]]:
            looked_at[row[3]] += 1
            chosen.append(row)
    taken: set[tuple[str, int]] = set()
    causes = Counter(
        _cause(predictions[number], row, by_id[image_id], taken)
        for _, image_id, row, _, number in chosen
    )
    return ErrorBreakdown(causes)


def _cause(
    prediction: ImagePrediction, row: int, record: ImageRecord, taken: set[tuple[str, int]]
) -> str:
    """The cause of one detection; a correct one takes its pair."""
    label, verb = prediction.object_labels[row], prediction.verbs[row]
    human, object_, verbs = record.pairs.T
    count = len(record.boxes)
    human_iou = iou(np.repeat(prediction.human_boxes[row : row + 1], count, 0), record.boxes)
    object_iou = iou(np.repeat(prediction.object_boxes[row : row + 1], count, 0), record.boxes)
    human_fits, object_fits = human_iou >= MIN_IOU, object_iou >= MIN_IOU
    both = human_fits[human] & object_fits[object_]
    same_class, same_verb = record.labels[object_] == label, verbs == verb
    same = both & same_class & same_verb
    if same.any():
        overlap = np.where(same, np.minimum(human_iou[human], object_iou[object_]), -1)
        pair = (record.image_id, int(overlap.argmax()))
        if pair in taken:
            return "duplicate"
        taken.add(pair)
        return "correct"
    if (both & same_class).any():
        return "wrong verb"
    if (both & same_verb).any():
        return "wrong object class"
    is_person = record.labels == 0
    if (human_fits & is_person).any() and (object_fits & (record.labels == label)).any():
        return "wrong pairing"
    if (object_fits[object_] & same_class & same_verb).any():
        return "wrong human box"
    if (human_fits[human] & same_class & same_verb).any():
        return "wrong object box"
    return "background"

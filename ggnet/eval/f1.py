"""Which score a picture should ask for: precision, recall and F1 of all triplets by score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.hico import pooled_matches
from ggnet.eval.predictions import ImagePrediction


@dataclass(frozen=True, eq=False)
class F1Curve:
    """What is left of a split's triplets at each threshold, all HOIs taken together.

    A triplet is right as in HICO-DET's official protocol: both boxes at an IoU of 0.5 or more, and
    no better-scored one has the annotated pair.
    """

    scores: np.ndarray  # (n,) float64 thresholds, falling, each once
    precision: np.ndarray  # (n,) fractions
    recall: np.ndarray  # (n,)

    @property
    def f1(self) -> np.ndarray:
        """(n,) harmonic means of precision and recall."""
        total = self.precision + self.recall
        product = 2 * self.precision * self.recall
        return np.divide(product, total, out=np.zeros_like(total), where=total > 0)

    def best(self) -> dict[str, float] | None:
        """Threshold, F1, precision and recall where F1 is highest, the highest threshold among
        equals; None where no triplet is right."""
        if not len(self.scores) or not self.f1.max() > 0:
            return None
        at = int(self.f1.argmax())
        columns = {"threshold": self.scores, "f1": self.f1}
        columns |= {"precision": self.precision, "recall": self.recall}
        return {name: float(values[at]) for name, values in columns.items()}


def f1_curve(
    predictions: Sequence[ImagePrediction], records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> F1Curve:
    """The curve of a split's predictions.

    Raises:
        UserError: a prediction of an image that is not in `records`, or two of the same image.
    """
    scores, correct, positives = pooled_matches(predictions, records, vocabulary)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(correct[order])
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores pass together
    hits = hits[last]
    return F1Curve(scores[last], hits / (last + 1), hits / max(positives, 1))

"""The threshold of the best F1, by hand."""

import numpy as np
import pytest
from samples import CUPS

from ggnet.data.annotations import ImageRecord
from ggnet.eval.f1 import f1_curve
from ggnet.eval.predictions import ImagePrediction

BOXES = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], np.float64)
LABELS = np.array([0, 1, 2])


def record(name, pairs):
    return ImageRecord(f"{name}.jpg", name, None, BOXES, LABELS, np.array(pairs))


def prediction(name, rows):
    """Rows of (object, verb, score) of person 0."""
    objects, verbs, scores = zip(*rows, strict=True)
    return ImagePrediction(
        name,
        f"{name}.jpg",
        BOXES[[0] * len(rows)],
        BOXES[list(objects)],
        LABELS[list(objects)],
        np.array(verbs),
        np.array(scores),
    )


RECORDS = [("a", [[0, 1, 0], [0, 2, 1]]), ("b", [[0, 1, 2]])]


@pytest.fixture
def records():
    return [record(*values) for values in RECORDS]


def test_by_hand(records):
    found = [
        # right, wrong verb, right, and a second time what is found already
        prediction("a", [(1, 0, 0.9), (2, 0, 0.5), (2, 1, 0.4), (1, 0, 0.3)]),
        prediction("b", [(1, 0, 0.5)]),  # wrong verb
    ]
    curve = f1_curve(found, records, CUPS)
    np.testing.assert_array_equal(curve.scores, [0.9, 0.5, 0.4, 0.3])
    np.testing.assert_allclose(curve.precision, [1, 1 / 3, 2 / 4, 2 / 5])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    np.testing.assert_allclose(curve.f1, [0.5, 1 / 3, 4 / 7, 0.5])
    assert curve.best() == pytest.approx(
        {"threshold": 0.4, "f1": 4 / 7, "precision": 0.5, "recall": 2 / 3}
    )


def test_nothing_right_has_no_best(records):
    assert f1_curve([], records, CUPS).best() is None
    assert f1_curve([prediction("b", [(2, 1, 0.9)])], records, CUPS).best() is None

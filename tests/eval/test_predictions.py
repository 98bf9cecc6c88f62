"""Prediction files: exact round trip, plain words about broken ones."""

import json

import numpy as np
import pytest

from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval.predictions import ImagePrediction, read_predictions, write_predictions

VOCABULARY = Vocabulary(
    "tiny", ("person", 'a "dog"'), (1, 18), ("pet", "walk"), (1, 2), ((0, 1), (1, 1))
)


def random_prediction(image_id, count, rng, scored=False):
    boxes = rng.random((3, 4), dtype=np.float32) * 500
    box_scores = rng.random(3, dtype=np.float32)
    human, object_ = rng.integers(0, 3, (2, count))
    return ImagePrediction(
        image_id,
        f"{image_id}.jpg",
        boxes[human],
        boxes[object_],
        rng.integers(0, 2, count),
        rng.integers(0, 2, count),
        rng.random(count, dtype=np.float32) ** 20,
        human_scores=box_scores[human] if scored else None,
        object_scores=box_scores[object_] if scored else None,
        size=(640, 480) if scored else None,
    )


@pytest.mark.parametrize("scored", [False, True])
def test_round_trip_is_exact(tmp_path, scored):
    rng = np.random.default_rng(0)
    written = [random_prediction(str(n), count, rng, scored) for n, count in enumerate((0, 1, 100))]
    path = tmp_path / "predictions.json"
    write_predictions(path, written, VOCABULARY)
    again = read_predictions(path, VOCABULARY)
    for old, new in zip(written, again, strict=True):
        assert (old.image_id, old.file_name, len(old)) == (new.image_id, new.file_name, len(new))
        for name in ("human_boxes", "object_boxes", "object_labels", "verbs", "scores"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
        assert old.size == new.size
        for name in ("human_scores", "object_scores") if len(old) else ():
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))


def test_each_box_is_stored_once(tmp_path):
    path = tmp_path / "predictions.json"
    write_predictions(path, [random_prediction("a", 50, np.random.default_rng(0))], VOCABULARY)
    (image,) = json.loads(path.read_text())["images"]
    assert len(image["objects"]) <= 6
    assert len(image["interactions"]) == 50


ENTRY = {
    "image_id": "a",
    "file_name": "a.jpg",
    "objects": [{"box": [0, 0, 1, 1], "label": "person"}],
    "interactions": [{"human": 0, "object": 0, "verb": "pet", "score": 0.5}],
}


def row(**changes):
    return [ENTRY["interactions"][0] | changes]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": None}, "image 0"),
        ({"objects": [{"box": [0, 0, 1, 1], "label": "cat"}]}, "no 'cat'"),
        ({"objects": [{"box": [0, 0, 1], "label": "person"}]}, "image 0"),
        ({"objects": [{"box": [0, 0, 1, float("nan")], "label": "person"}]}, "not a finite"),
        ({"interactions": row(human=1)}, "out of bounds"),
        ({"interactions": row(object=-1)}, "is negative"),
        ({"interactions": row(verb="fly")}, "no 'fly'"),
        ({"interactions": [{"human": 0}]}, "no 'object'"),
    ],
)
def test_broken_entries_are_named(tmp_path, changes, message):
    path = tmp_path / "predictions.json"
    values = {"format": "ggnet predictions", "version": 1, "images": [ENTRY | changes]}
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message) as caught:
        read_predictions(path, VOCABULARY)
    assert "a.jpg" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "not a prediction file"),
        ({"images": []}, "not a prediction file"),
        ({"format": "ggnet predictions", "version": 2, "images": []}, "version 2"),
        ({"format": "ggnet predictions", "version": 1}, "no list of images"),
    ],
)
def test_other_files_are_refused(tmp_path, values, message):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        read_predictions(path, VOCABULARY)


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"verbs of image a has shape \(2,\); expected \(1,\)"):
        ImagePrediction(
            "a", "a.jpg", np.zeros((1, 4)), np.zeros((1, 4)), np.zeros(1), np.zeros(2), np.zeros(1)
        )

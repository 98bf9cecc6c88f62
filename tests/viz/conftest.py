from pathlib import Path

import numpy as np
import pytest

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.predictions import Gaze, ImagePrediction


@pytest.fixture
def vocabulary():
    """A person, two objects and three verbs that go with both objects."""
    return Vocabulary(
        name="few",
        objects=("person", "ball", "cup"),
        object_ids=(1, 2, 3),
        verbs=("hold", "sit_on", "throw"),
        verb_ids=(1, 2, 3),
        hois=tuple((verb, object_) for verb in range(3) for object_ in (1, 2)),
    )


@pytest.fixture
def record():
    """Two people, a ball and a cup in 640 x 480 pixels; hold ball and throw ball, hold cup."""
    return ImageRecord(
        file_name="a.jpg",
        image_id="a",
        path=Path("a.jpg"),
        boxes=np.array(
            [
                [100, 100, 160, 300],
                [400, 120, 480, 330],
                [200, 220, 240, 260],
                [500, 200, 530, 240],
            ],
            np.float32,
        ),
        labels=np.array([0, 0, 1, 2]),
        pairs=np.array([[0, 2, 0], [0, 2, 2], [1, 3, 0]]),
    )


@pytest.fixture
def prediction(record):
    """The record's pairs, each box 2 pixels off, with scores 0.9, 0.6 and 0.1."""
    human, object_, verbs = record.pairs.T
    return ImagePrediction(
        image_id="a",
        file_name="a.jpg",
        human_boxes=record.boxes[human] + 2,
        object_boxes=record.boxes[object_] + 2,
        object_labels=record.labels[object_],
        verbs=verbs.copy(),
        scores=np.array([0.9, 0.6, 0.1], np.float32),
    )


@pytest.fixture
def gaze(prediction):
    """Two steps of 9 points around the middle of each pair."""
    middle = (prediction.human_boxes + prediction.object_boxes).reshape(-1, 2, 2).mean(axis=1) / 2
    grid = np.stack(np.meshgrid([-20, 0, 20], [-20, 0, 20]), axis=-1).reshape(9, 2)
    actpoints = np.stack([middle[:, None] + grid, middle[:, None] + 2 * grid]).astype(np.float32)
    weights = np.broadcast_to(np.linspace(0, 1, 9, dtype=np.float32), (2, 3, 9))
    return Gaze(middle, actpoints, weights)


@pytest.fixture
def image():
    """Grey noise, 640 x 480."""
    return np.random.default_rng(0).integers(90, 110, (480, 640, 3), dtype=np.uint8)

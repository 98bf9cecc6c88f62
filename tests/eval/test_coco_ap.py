"""The precision curves are pycocotools' own, to the last bit."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ggnet.data.annotations import ImageRecord
from ggnet.eval import coco_ap
from ggnet.eval.predictions import ImageDetections

CLASSES = 3


def by_pycocotools(found, records):
    """Everything by the library, from its own dataset."""

    def sides(boxes):
        corners = boxes.astype(np.float64)
        return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()

    numbers = {record.image_id: number for number, record in enumerate(records, 1)}
    annotations = [
        {
            "image_id": numbers[record.image_id],
            "category_id": int(label) + 1,
            "iscrowd": 0,
            "bbox": box,
            "area": box[2] * box[3],
        }
        for record in records
        for label, box in zip(record.labels, sides(record.boxes), strict=True)
    ]
    detections = [
        {
            "image_id": numbers[image.image_id],
            "category_id": int(label) + 1,
            "score": float(score),
            "bbox": box,
        }
        for image in found
        for label, score, box in zip(image.labels, image.scores, sides(image.boxes), strict=True)
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number} for number in numbers.values()],
        "categories": [{"id": index} for index in range(1, CLASSES + 1)],
        "annotations": [{"id": id_, **row} for id_, row in enumerate(annotations, 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections) if detections else COCO(), "bbox")
        evaluation.params.imgIds = list(numbers.values())
        evaluation.params.catIds = list(range(1, CLASSES + 1))
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 0]


def random_case(seed, images, most, grid):
    """Boxes near each other; on a grid, overlaps and scores repeat."""
    rng = np.random.default_rng(seed)
    records, found = [], []
    for number in range(images):
        count = int(rng.integers(0, 5))
        corners = rng.integers(0, 4, (count, 2)) * 8.0
        boxes = np.hstack([corners, corners + rng.integers(1, 4, (count, 2)) * 8]).astype(
            np.float32
        )
        labels = rng.integers(0, CLASSES - 1, count)  # the last class has no truth
        pairs = np.zeros((0, 3), int)
        records.append(ImageRecord(f"{number}.jpg", str(number), None, boxes, labels, pairs))
        many = int(rng.integers(0, most)) if count else 0
        chosen = rng.integers(0, max(count, 1), many)
        near = boxes[chosen] + (
            rng.integers(-1, 2, (many, 4)) if grid else rng.normal(0, 2, (many, 4))
        )
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        scores = (rng.integers(1, 6, many) / 8 if grid else rng.random(many)).astype(np.float32)
        labels = np.where(rng.random(many) < 0.7, labels[chosen], rng.integers(0, CLASSES, many))
        found.append(ImageDetections(str(number), near.astype(np.float32), labels, scores))
    return [found[i] for i in rng.permutation(images) if rng.random() < 0.9], records


@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 6), grid=st.booleans())
@settings(max_examples=150, deadline=None)
def test_equal_to_pycocotools(seed, images, grid):
    found, records = random_case(seed, images, 12, grid)
    got = coco_ap.precision_curves(found, records, CLASSES)
    np.testing.assert_array_equal(got, by_pycocotools(found, records))


@pytest.mark.parametrize("grid", [True, False])
def test_beyond_a_hundred_of_an_image_and_a_class(grid):
    found, records = random_case(7, 4, 900, grid)
    assert max(np.bincount(image.labels).max(initial=0) for image in found) > 120
    got = coco_ap.precision_curves(found, records, CLASSES)
    np.testing.assert_array_equal(got, by_pycocotools(found, records))


@pytest.mark.parametrize(("rank", "counts"), [(100, True), (101, False)])
def test_the_hundred_best_of_an_image_and_a_class_count(rank, counts):
    """The only right box is that of this rank."""
    truth = np.array([[0, 0, 10, 10]], np.float32)
    record = ImageRecord("a.jpg", "a", None, truth, np.array([0]), np.zeros((0, 3), int))
    boxes = np.repeat(truth + 50, 120, axis=0)
    boxes[rank - 1] = truth
    scores = np.linspace(0.9, 0.1, 120).astype(np.float32)
    found = [ImageDetections("a", boxes, np.zeros(120, int), scores)]
    got = coco_ap.precision_curves(found, [record], CLASSES)
    np.testing.assert_array_equal(got, by_pycocotools(found, [record]))
    assert (got[:, :, 0].max() > 0) == counts


def test_in_parts(monkeypatch):
    monkeypatch.setattr("ggnet.eval.boxes.CHUNK", 3)
    found, records = random_case(11, 6, 40, True)
    got = coco_ap.precision_curves(found, records, CLASSES)
    np.testing.assert_array_equal(got, by_pycocotools(found, records))

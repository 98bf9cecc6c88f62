"""AP of detected boxes, files of them, and the causes of false positives."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval.detection import evaluate_detection, read_detections
from ggnet.eval.errors import CAUSES, error_breakdown
from ggnet.eval.predictions import ImageDetections, ImagePrediction

VOCABULARY = Vocabulary(
    "tiny",
    ("person", "dog", "cat"),
    (1, 18, 17),
    ("pet", "walk"),
    (1, 2),
    ((0, 1), (1, 1), (0, 2)),
)
MAN, WOMAN = (0, 0, 20, 40), (200, 0, 220, 40)
DOG, OTHER_DOG = (60, 0, 80, 20), (260, 0, 280, 20)
FAR = (500, 500, 520, 520)
RECORD = ImageRecord(
    "a.jpg",
    "a",
    None,
    np.array([MAN, DOG, WOMAN, OTHER_DOG], np.float32),
    np.array([0, 1, 0, 1]),
    np.array([[0, 1, 0], [2, 3, 1]]),  # the man pets the dog, the woman walks the other
)


def detected(boxes, labels, scores):
    return ImageDetections(
        "a", np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, int), np.array(scores)
    )


def test_perfect_detections():
    image = detected(RECORD.boxes, RECORD.labels, [0.5, 0.6, 0.7, 0.8])
    result = evaluate_detection([image], [RECORD], VOCABULARY)
    assert (result.ap, result.ap50, result.ap75) == pytest.approx((100, 100, 100))
    assert result.class_ap["person"] == pytest.approx(100)
    assert np.isnan(result.class_ap["cat"])
    assert result.to_dict()["classes"]["cat"] is None
    assert [cell for column in result.table().columns for cell in column.cells] == ["100.00"] * 4


def test_half_of_the_persons_and_a_loose_dog():
    loose = (60, 0, 80, 14)  # overlaps the dog by 0.7
    image = detected([MAN, loose, OTHER_DOG], [0, 1, 1], [0.5, 0.9, 0.8])
    result = evaluate_detection([image], [RECORD], VOCABULARY)
    assert result.class_ap["person"] == pytest.approx(100 * 51 / 101)  # 101 recall points
    assert result.ap50 > result.ap75


def test_no_detections():
    assert evaluate_detection([], [RECORD], VOCABULARY).ap == 0
    with pytest.raises(UserError, match="image b has detections"):
        evaluate_detection(
            [ImageDetections("b", RECORD.boxes, RECORD.labels, np.ones(4))], [RECORD], VOCABULARY
        )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"images": [], "annotations": []},
            "is in COCO's format for annotations; expected its format for",
        ),
        ([], "is an empty list; expected boxes"),
        ({}, "has no list of boxes; expected boxes"),
    ],
)
def test_what_is_no_list_of_results_is_named(tmp_path, content, says):
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"boxes.json {says}"):
        read_detections(tmp_path / "boxes.json", [RECORD], VOCABULARY)


def test_corners_are_not_taken_for_sides(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.jpg")
    record = replace(RECORD, path=tmp_path / "a.jpg")
    corners = [[10, 10, 30, 70], [60, 5, 95, 40]]
    row = {"image_id": "a", "category_id": 1, "score": 0.5}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([row | {"bbox": box} for box in corners]))
    with pytest.raises(UserError, match=r"bbox \[60, 5, 95, 40\] reaches beyond .*a.jpg, 100x80"):
        read_detections(path, [record], VOCABULARY)
    path.write_text(json.dumps([row | {"bbox": corners[0]}]))  # within it, as sides too
    assert read_detections(path, [record], VOCABULARY)["a"].boxes.tolist() == [[10, 10, 40, 80]]
    # As far beyond the image as rounding may bring a box, and a little more.
    for right, beyond in ((51, False), (51.5, True)):
        path.write_text(json.dumps([row | {"bbox": [50, 5, right, 40]}]))
        if beyond:
            with pytest.raises(UserError, match="all boxes would be right as corners"):
                read_detections(path, [record], VOCABULARY)
        else:
            read_detections(path, [record], VOCABULARY)
    sides = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in corners]
    path.write_text(json.dumps([row | {"bbox": box} for box in sides]))
    assert read_detections(path, [record], VOCABULARY)["a"].boxes.tolist() == corners


def test_fractions_are_not_taken_for_pixels(tmp_path):
    """Rounded, one may reach a little beyond the image."""
    row = {"image_id": "a", "category_id": 1, "score": 0.5}
    boxes = [[0.25, 0.2, 0.5, 0.3], [0.5004, 0.2, 0.5, 0.3]]
    (tmp_path / "boxes.json").write_text(json.dumps([row | {"bbox": box} for box in boxes]))
    with pytest.raises(UserError, match="boxes.json: all boxes are within 0 and 1"):
        read_detections(tmp_path / "boxes.json", [RECORD], VOCABULARY)


def test_boxes_of_another_detector(tmp_path):
    entries = [
        {"image_id": "a", "category_id": 18, "bbox": [60, 0, 20, 20.5], "score": 0.75},
        {"image_id": "a.jpg", "category_id": 1, "bbox": [0, 0, 20, 40], "score": 1},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    records = [RECORD, replace(RECORD, file_name="b.jpg", image_id="b")]
    found = read_detections(tmp_path / "boxes.json", records, VOCABULARY)
    assert found["a"].boxes.tolist() == [[60, 0, 80, 20.5], [0, 0, 20, 40]]
    assert found["a"].labels.tolist() == [1, 0]
    assert found["a"].scores.tolist() == [0.75, 1]
    assert found["b"].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_id": "c"},
            "entry 0: unknown or missing 'c' .*; expected image_id of an annotated",
        ),
        ({"category_id": 99}, "entry 0: unknown or missing 99"),
        ({"bbox": [0, 0, 1]}, "entry 0: .*expected image_id"),
        ({"bbox": [0, 0, -1, 5]}, r"entry 0: bbox \[0, 0, -1, 5\] is not a box"),
        ({"score": 1.5}, "entry 0: score 1.5; expected above 0, at most 1"),
        ({"category_id": 0}, r"its category ids begin at 0, those of the dataset are 1, 18"),
        ({"image_id": 1}, r"none of its image ids is the dataset's, which has such as 'a.jpg'"),
    ],
)
def test_broken_boxes_are_named(tmp_path, change, message):
    entry = {"image_id": "a", "category_id": 18, "bbox": [60, 0, 20, 20], "score": 0.7} | change
    (tmp_path / "boxes.json").write_text(json.dumps([entry]))
    with pytest.raises(UserError, match=message):
        read_detections(tmp_path / "boxes.json", [RECORD], VOCABULARY)


def causes(*rows):
    """rows: (human box, object box, object label, verb); the first is scored best."""
    humans, things, labels, verbs = zip(*rows, strict=True)
    prediction = ImagePrediction(
        "a",
        "a.jpg",
        np.array(humans, np.float32),
        np.array(things, np.float32),
        np.array(labels),
        np.array(verbs),
        np.linspace(0.9, 0.1, len(rows)).astype(np.float32),
    )
    return dict(error_breakdown([prediction], [RECORD], VOCABULARY).counts)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ((MAN, DOG, 1, 0), "correct"),
        ((MAN, DOG, 1, 1), "wrong verb"),
        ((WOMAN, DOG, 1, 0), "wrong pairing"),
        ((FAR, DOG, 1, 0), "wrong human box"),
        ((MAN, FAR, 1, 0), "wrong object box"),
        ((FAR, FAR, 1, 0), "background"),
        ((MAN, OTHER_DOG, 1, 1), "wrong pairing"),
    ],
)
def test_causes(row, cause):
    assert cause in CAUSES
    assert causes(row) == {cause: 1}


def test_only_as_many_as_there_are_pairs_are_looked_at():
    assert causes((FAR, FAR, 1, 0), (MAN, DOG, 1, 0), (WOMAN, OTHER_DOG, 1, 1)) == {
        "background": 1,
        "correct": 1,
    }


def test_a_duplicate_and_another_object_class():
    two = ImageRecord(
        "a.jpg",
        "a",
        None,
        RECORD.boxes,
        np.array([0, 1, 0, 2]),
        np.array([[0, 1, 0], [2, 3, 0], [2, 1, 0]]),
    )
    prediction = ImagePrediction(
        "a",
        "a.jpg",
        np.array([MAN, MAN, MAN], np.float32),
        np.array([DOG, DOG, DOG], np.float32),
        np.array([1, 1, 2]),
        np.array([0, 0, 0]),
        np.array([0.9, 0.8, 0.7], np.float32),
    )
    breakdown = error_breakdown([prediction], [two], VOCABULARY)
    assert breakdown.to_dict()["correct"] == 1
    assert breakdown.to_dict()["duplicate"] == 1
    assert breakdown.to_dict()["wrong object class"] == 1
    table = breakdown.table()
    assert table.row_count == len(CAUSES)
    shown = zip(*(column.cells for column in table.columns), strict=True)
    assert ("correct", "1", "33.3 %", CAUSES["correct"]) in shown
    assert [column.justify for column in table.columns] == ["left", "right", "right", "left"]

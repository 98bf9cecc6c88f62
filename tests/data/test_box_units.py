"""Boxes and ids that mean something else are named by what they are, by evidence from the file."""

import json

import numpy as np
import pytest
from PIL import Image
from samples import CUPS

from ggnet.data.annotations import load_annotations
from ggnet.data.problems import Problems
from ggnet.errors import UserError
from ggnet.eval.detection import read_detections

SIZE = 160, 120


@pytest.fixture
def corners():
    """(30 images, 3 boxes, 4): boxes all over images of SIZE, some of them in the corner."""
    random = np.random.default_rng(0)
    first = random.uniform(0, 0.8, (30, 3, 2)) * SIZE
    last = first + random.uniform(0.1, 1, (30, 3, 2)) * (np.array(SIZE) - first)
    return np.concatenate([first, last], axis=2)


@pytest.fixture
def load(tmp_path):
    """Write boxes as annotations of images and read them."""

    def write(boxes, change=lambda entry: None):
        entries = []
        for number, rows in enumerate(boxes):
            name = f"{number}.png"
            Image.new("L", SIZE).save(tmp_path / name)
            labelled = [
                {"bbox": box, "category_id": category}
                for box, category in zip(rows.tolist(), (1, 2, 3), strict=True)
            ]
            pair = {"subject_id": 0, "object_id": 1, "category_id": 1}
            entry = {"file_name": name, "annotations": labelled, "hoi_annotation": [pair]}
            change(entry)
            entries.append(entry)
        (tmp_path / "split.json").write_text(json.dumps(entries))
        problems = Problems()
        records = load_annotations(tmp_path / "split.json", tmp_path, CUPS, problems)
        return records, dict(problems.counts)

    return write


def as_sides(corners):
    return np.concatenate([corners[..., :2], corners[..., 2:] - corners[..., :2]], axis=-1)


def test_right_boxes_pass(load, corners):
    assert load(corners)[1] == {}
    assert load(corners.round())[1] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (as_sides, r"all are right as \[x, y, width, height\]"),
        (lambda c: c / np.tile(SIZE, 2), r"within 0 and 1; expected pixels"),
        (lambda c: as_sides(c / np.tile(SIZE, 2)), r"within 0 and 1; expected pixels"),
        (lambda c: 2 * c, r"up to 2\.\d+ times its side; .* another image size"),
        (lambda c: 1.5 * c, r"up to 1\.\d+ times its side; .* another image size"),
    ],
)
def test_boxes_in_other_units_stop(load, corners, change, message):
    with pytest.raises(UserError, match=message):
        load(change(corners))


def test_boxes_of_smaller_images_are_doubted_only(load, corners):
    records, problems = load(corners / 2)
    assert len(records) == 30
    assert problems == {"boxes of a smaller image": 1}


def test_no_cause_is_claimed_without_evidence(load, corners):
    corners[3, 0] = corners[3, 0, [2, 3, 0, 1]]  # one box whose corners are exchanged
    corners[4:6, 0, 2] = 400  # two that are too wide
    corners[6, 0] = [0.25, 0.25, 0.5, 0.5]  # a tiny one
    assert load(corners)[1] == {"zero-area box": 1, "pair of a broken box": 1}
    corners[:, 0] = corners[:, 0][:, [2, 3, 0, 1]]  # a third of them: not x, y, width, height
    assert load(corners)[1]["zero-area box"] >= 29


def test_a_few_exchanged_corners_are_no_sides_where_sizes_are_not_known(load, corners, tmp_path):
    load(corners)
    entries = json.loads((tmp_path / "split.json").read_text())
    for entry in entries[:4]:
        x1, y1, x2, y2 = entry["annotations"][2]["bbox"]
        entry["annotations"][2]["bbox"] = [x2, y2, x1, y1]
    (tmp_path / "split.json").write_text(json.dumps(entries))
    problems = Problems()
    load_annotations(tmp_path / "split.json", None, CUPS, problems)
    assert problems.counts == {"zero-area box": 4}


@pytest.mark.parametrize("kind", ["objects", "verbs"])
def test_ids_that_count_from_zero_stop(load, corners, kind):
    def change(entry):
        for row in entry["annotations" if kind == "objects" else "hoi_annotation"]:
            row["category_id"] -= 1

    with pytest.raises(UserError, match=rf"numbers the {kind} from 0.* their ids are 1, 2, 3\."):
        load(corners, change)


def test_a_zero_among_other_ids_is_one_unknown_id(load, corners):
    def change(entry):
        if entry["file_name"] == "7.png":
            entry["annotations"][2]["category_id"] = 0

    assert load(corners, change)[1] == {"unknown object id": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c, r"all boxes would be right as corners"),
        (lambda c: as_sides(c / np.tile(SIZE, 2)), r"within 0 and 1; expected pixels"),
        (lambda c: as_sides(2 * c), r"another image size"),
    ],
)
def test_detections_in_other_units_stop(load, corners, tmp_path, change, message):
    records, _ = load(corners)
    file = tmp_path / "detections.json"

    def read(boxes):
        rows = [
            {"image_id": f"{number}.png", "category_id": 1, "bbox": box, "score": 0.5}
            for number, some in enumerate(boxes.tolist())
            for box in some
        ]
        file.write_text(json.dumps(rows))
        return read_detections(file, records, CUPS)

    assert len(read(as_sides(corners))) == 30
    with pytest.raises(UserError, match=message):
        read(change(corners))

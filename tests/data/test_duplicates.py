"""Boxes drawn anew for each verb become one where a network is trained on them."""

import json

import numpy as np
import pytest

from ggnet.data.annotations import load_annotations
from ggnet.data.convert import convert
from ggnet.data.duplicates import first_of_each
from ggnet.data.tools import repeated_boxes, verify_dataset

RIDER, BIKE = [10, 10, 60, 110], [50, 60, 120, 115]
NO_PAIRS = np.zeros((0, 3), np.int64)


def slow_iou(a, b):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(area) - shared)


def test_each_box_stands_for_the_first_of_its_thing():
    rng = np.random.default_rng(0)
    for _ in range(30):
        boxes = rng.integers(0, 12, (10, 4)).astype(float)
        boxes[:, 2:] = boxes[:, :2] + rng.integers(8, 14, (10, 2))
        labels = rng.integers(0, 2, 10)
        expected = []
        for i, box in enumerate(boxes):
            firsts = [j for j in range(i) if expected[j] == j and labels[j] == labels[i]]
            same = [j for j in firsts if slow_iou(boxes[j], box) > 0.5]
            expected.append(same[0] if same else i)
        assert first_of_each(boxes, labels, NO_PAIRS).tolist() == expected


def test_exactly_half_is_another_thing():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 5.01]])
    assert first_of_each(boxes, np.zeros(3), NO_PAIRS).tolist() == [0, 1, 0]


def test_thin_boxes_side_by_side_are_two():
    boxes = np.array([[0, 0, 1, 50], [9, 0, 10, 50], [0, 70, 50, 71], [0, 80, 50, 81]], float)
    assert first_of_each(boxes, np.zeros(4), NO_PAIRS).tolist() == [0, 1, 2, 3]


def test_two_people_of_a_pair_are_two():
    boxes = np.array([[0, 0, 10, 20], [1, 0, 11, 20], [1, 1, 11, 20]], dtype=float)
    assert first_of_each(boxes, np.zeros(3), np.array([[0, 1, 5]])).tolist() == [0, 1, 0]
    # the third may be the first then, but not the first and the second's partner at once
    pairs = np.array([[0, 1, 5], [2, 1, 5]])
    assert first_of_each(boxes, np.zeros(3), pairs).tolist() == [0, 1, 0]
    pairs = np.array([[0, 1, 5], [0, 2, 5]])
    assert first_of_each(boxes, np.zeros(3), pairs).tolist() == [0, 1, 1]


def write(path):
    """Riding, and then holding, the same bicycle; boxes as in the file, from 1, a bit apart."""
    row = {"boxes_h": [RIDER, [11, 10, 61, 112]], "boxes_o": [BIKE, [51, 61, 119, 114]]}
    row |= {"object": [0, 0], "verb": [0, 1]}
    values = {"objects": ["bicycle"], "verbs": ["ride", "hold"]}
    values |= {"filenames": ["HICO_train2015_00000001.jpg"], "annotation": [row]}
    (path / "hico.json").write_text(json.dumps(values))
    return path / "hico.json"


def test_training_boxes_are_merged_test_boxes_are_not(tmp_path):
    file = write(tmp_path)
    dataset = convert("hico-json", tmp_path / "out", train=file, test=file)
    (merged,) = dataset.load("train", look_for_images=False)
    np.testing.assert_array_equal(merged.boxes, [[9, 9, 60, 110], [49, 59, 120, 115]])
    names = [dataset.vocabulary.verbs[verb] for verb in merged.pairs[:, 2]]
    assert (merged.pairs[:, :2].tolist(), names) == ([[0, 1], [0, 1]], ["ride", "hold"])
    (kept,) = dataset.load("test", look_for_images=False)
    assert kept.pairs[:, :2].tolist() == [[0, 1], [2, 3]]
    counts = verify_dataset(tmp_path / "out", read_images=False).counts
    assert counts == {"train": (1, 2, 0, 2), "test": (1, 4, 2, 2)}
    apart = convert("hico-json", tmp_path / "apart", train=file, merge=False)
    assert len(apart.load("train", look_for_images=False)[0].boxes) == 4


def test_the_real_file(shared, tmp_path):
    """Read as a training file, to see what merging does: 33,405 pairs, 56,786 boxes before."""
    dataset = convert("hico-json", tmp_path, train=shared / "hicodet_instances_test2015.json")
    records = load_annotations(dataset.splits["train"].annotations, None, dataset.vocabulary)
    assert sum(len(record.boxes) for record in records) == 32872
    links = sum(len(np.unique(record.pairs[:, :2], axis=0)) for record in records)
    assert sum(len(record.pairs) for record in records) / links == pytest.approx(1.51, abs=0.005)
    assert repeated_boxes(records) == 0

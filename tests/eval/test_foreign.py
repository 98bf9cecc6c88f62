"""Other projects' prediction files are read, written and not trusted."""

import contextlib
import io
import json
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest

from ggnet.data.annotations import ImageRecord
from ggnet.data.tables import vcoco_actions
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval import foreign
from ggnet.eval.foreign import read_ppdm, read_vcoco_pickle, write_ppdm, write_vcoco_pickle
from ggnet.eval.predictions import ImagePrediction, read_predictions, write_predictions
from ggnet.eval.unpickle import load_plain
from ggnet.eval.vcoco import RolePredictions

VOCABULARY = Vocabulary(
    "tiny", ("person", "dog"), (1, 18), ("pet", "walk"), (5, 7), ((0, 1), (1, 1))
)
RECORDS = [
    ImageRecord("a.jpg", "1", None, np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 3), int))
]
ENTRY = {
    "file_name": "a.jpg",
    "predictions": [
        {"bbox": [0, 0, 9, 19], "category_id": 1},
        {"bbox": [30, 0, 39, 9], "category_id": "18\n"},
    ],
    "hoi_prediction": [{"subject_id": 0, "object_id": 1, "category_id": 7, "score": 0.5}],
}


def test_ppdm_boxes_are_inclusive_from_zero(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ENTRY]))
    (image,) = read_ppdm(path, RECORDS, VOCABULARY)
    assert (image.image_id, image.verbs.tolist(), image.object_labels.tolist()) == ("1", [1], [1])
    np.testing.assert_array_equal(image.human_boxes, [[0, 0, 10, 20]])
    np.testing.assert_array_equal(image.object_boxes, [[30, 0, 40, 10]])


def test_numbers_are_read_as_float64(tmp_path):
    """In float32 they would be equal, or moved across the overlap of one half."""
    entry = json.loads(json.dumps(ENTRY))
    entry["predictions"][0]["bbox"][2] = 9.000000001
    entry["hoi_prediction"][0]["score"] = 0.1
    (tmp_path / "predictions.json").write_text(json.dumps([entry]))
    (image,) = read_ppdm(tmp_path / "predictions.json", RECORDS, VOCABULARY)
    assert (image.human_boxes[0, 2], image.scores[0]) == (10.000000001, 0.1)
    write_predictions(tmp_path / "own.json", [image], VOCABULARY)
    (image,) = read_predictions(tmp_path / "own.json", VOCABULARY)
    assert (image.human_boxes[0, 2], image.scores[0]) == (10.000000001, 0.1)


def test_ppdm_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    image = ImagePrediction(
        "1",
        "a.jpg",
        rng.integers(0, 500, (9, 4)).astype(np.float32),
        rng.integers(0, 500, (9, 4)).astype(np.float32),
        rng.integers(0, 2, 9),
        rng.integers(0, 2, 9),
        rng.random(9, dtype=np.float32),
    )
    write_ppdm(tmp_path / "predictions.json", [image], VOCABULARY)
    (again,) = read_ppdm(tmp_path / "predictions.json", RECORDS, VOCABULARY)
    for name in ("human_boxes", "object_boxes", "object_labels", "verbs", "scores"):
        np.testing.assert_array_equal(getattr(image, name), getattr(again, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_name": "b.jpg"}, "unknown 'b.jpg'"),
        ({"predictions": [{"bbox": [0, 0, 9, 19], "category_id": 3}]}, "unknown 3"),
        ({"hoi_prediction": [ENTRY["hoi_prediction"][0] | {"category_id": 6}]}, "unknown 6"),
        ({"hoi_prediction": [ENTRY["hoi_prediction"][0] | {"object_id": 2}]}, "out of bounds"),
        ({"hoi_prediction": [ENTRY["hoi_prediction"][0] | {"object_id": -1}]}, "is negative"),
        ({"hoi_prediction": [ENTRY["hoi_prediction"][0] | {"object_id": 0.5}]}, "not a whole"),
        ({"hoi_prediction": [ENTRY["hoi_prediction"][0] | {"category_id": 5.7}]}, "not a whole"),
        (
            {"hoi_prediction": [ENTRY["hoi_prediction"][0] | {"score": float("nan")}]},
            "not a finite",
        ),
        ({"predictions": [{"bbox": [0, 0, 9, float("inf")], "category_id": 1}]}, "not a finite"),
        ({"predictions": [{"bbox": [0, 0, 9, 9, 1], "category_id": 1}] * 4}, "of shape"),
    ],
)
def test_broken_ppdm_entries_are_named(tmp_path, changes, message):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps([ENTRY | changes]))
    with pytest.raises(UserError, match=f"image 0 .*{message}"):
        read_ppdm(path, RECORDS, VOCABULARY)


def test_vcoco_pickle_round_trip(tmp_path):
    nothing = [np.nan] * 4
    image = RolePredictions(
        "7",
        np.array([[0, 0, 10, 20.5]] * 5),
        ["hold_obj", "hold_obj", "kick_obj", "hold_agent", "walk_agent"],
        np.array([[30, 0, 40, 10], [60, 0, 70, 10], nothing, nothing, nothing]),
        np.array([0.5, 0.25, 0.125, 0.75, 0.9]),
    )
    path = tmp_path / "detections.pkl"
    write_vcoco_pickle(path, [image])
    entries = pickle.loads(path.read_bytes())
    keys = {"image_id", "person_box"} | {f"{a.name}_agent" for a in vcoco_actions()}
    keys |= {f"{a.name}_{role}" for a in vcoco_actions() for role in a.roles}
    assert [set(entry) for entry in entries] == [keys] * 2  # two held objects: two entries
    assert entries[0]["image_id"] == 7
    assert entries[0]["person_box"] == [0, 0, 9, 19.5]
    assert entries[0]["hold_obj"] == [30, 0, 39, 9, 0.5]
    assert entries[0]["kick_obj"] == [0, 0, 0, 0, 0.125]
    (again,) = read_vcoco_pickle(path)
    rows = [
        sorted(
            zip(d.names, d.scores, d.person_boxes.tolist(), map(str, d.object_boxes), strict=True)
        )
        for d in (image, again)
    ]
    assert rows[0] == rows[1]


def test_vcoco_pickle_with_missing_keys_and_arrays(tmp_path):
    entry = {
        "image_id": np.int64(7),
        "person_box": np.array([0, 0, 9, 19], np.float32),
        "kick_obj": np.array([30, 0, 39, 9, 0.5]),
        "hold_agent": np.float32("nan"),
    }
    for protocol in (0, 2, 5):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps([entry], protocol=protocol))
        (image,) = read_vcoco_pickle(path)
        assert (image.image_id, image.names, image.scores.tolist()) == ("7", ["kick_obj"], [0.5])
        np.testing.assert_array_equal(image.object_boxes, [[30, 0, 40, 10]])


PERSON = {"image_id": 1, "person_box": [0, 0, 9, 9]}


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


def test_a_pickle_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "detections.pkl"
    path.write_bytes(pickle.dumps([{"image_id": 1, "person_box": Harmful()}]))
    with pytest.raises(UserError, match=r"wants to load .*system, which is not allowed"):
        read_vcoco_pickle(path)
    assert not (tmp_path / "harmed").exists()


class Objects:
    """An array of objects whose bytes are taken for addresses."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"\x41" * 8)


class OneNumber:
    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("f8"), b"\x41" * 8)


class Addresses:
    """The same through the function that NumPy itself uses."""

    def __reduce__(self):
        empty = np.array([]).__reduce__()[:2]
        return *empty, (1, (1,), np.dtype("O"), False, b"\x41" * 8)


@pytest.mark.parametrize(
    "harmful", [Objects(), OneNumber(), Addresses(), np.array([{}], dtype=object)]
)
def test_a_pickle_cannot_make_arrays_of_addresses(tmp_path, harmful):
    path = tmp_path / "detections.pkl"
    path.write_bytes(pickle.dumps([PERSON | {"kick_obj": harmful}]))
    with pytest.raises(UserError, match="cannot be read as a V-COCO pickle"):
        read_vcoco_pickle(path)


def test_arrays_survive_every_protocol():
    arrays = [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
        np.zeros((0, 4), np.float32),
        np.float32(0.5),
        np.arange(10)[::3],
    ]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file = io.BytesIO(pickle.dumps(arrays, protocol=protocol))
        for got, expected in zip(load_plain(file), arrays, strict=True):
            np.testing.assert_array_equal(np.asarray(got), expected)


@pytest.fixture
def little_memory():
    """A gigabyte more than now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_broken_pickle_ends_in_a_message(tmp_path, monkeypatch, little_memory):
    """Bytes of a good one changed, cut and repeated at random."""
    rng = np.random.default_rng(0)
    entry = PERSON | {"kick_obj": np.arange(5.0), "hold_agent": np.float64(0.5)}
    path = tmp_path / "detections.pkl"
    read = 0
    monkeypatch.setattr(foreign, "call_limited", lambda function, path: function(path))
    for case in range(600):
        content = bytearray(pickle.dumps([entry, entry], protocol=case % 6))
        for _ in range(rng.integers(1, 4)):
            at, value = int(rng.integers(len(content))), int(rng.integers(256))
            content[at : at + int(rng.integers(2))] = bytes([value]) * int(rng.integers(3))
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            read += len(read_vcoco_pickle(path)) >= 0
    assert read < 400


def test_a_few_bytes_cannot_take_all_the_memory(tmp_path):
    path = tmp_path / "detections.pkl"
    path.write_bytes(b"\x80\x02]r" + (1 << 30).to_bytes(4, "little") + b".")  # a list, number 2^30
    with pytest.raises(UserError, match="cannot be read"):
        read_vcoco_pickle(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a pickle", "cannot be read as a V-COCO pickle"),
        (pickle.dumps({}), "holds a dict; expected V-COCO's list"),
        (pickle.dumps([{"image_id": 1}]), "entry 0: KeyError: 'person_box'"),
        (pickle.dumps([{"image_id": 1, "person_box": [0, 1]}]), "entry 0: ValueError"),
        (pickle.dumps([PERSON | {"image_id": 2.7}]), "2.7 is not a whole number"),
        (pickle.dumps([PERSON | {"person_box": [0, 0, 9, np.inf]}]), "not a finite number"),
        (pickle.dumps([PERSON | {"kick_obj": [0, 0, np.inf, 9, 1]}]), "not a finite number"),
        (pickle.dumps([PERSON | {"hold_agent": np.inf}]), "not a finite number"),
    ],
)
def test_other_pickles_are_refused(tmp_path, content, message):
    path = tmp_path / "detections.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_vcoco_pickle(path)

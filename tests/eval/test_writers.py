"""Predictions written for other evaluators hold what these expect, and come back as they were."""

import io
import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from samples import CUPS
from scipy.io import loadmat, savemat

from ggnet.cli import main
from ggnet.config import EvalConfig
from ggnet.data.annotations import ImageRecord
from ggnet.data.convert import convert
from ggnet.data.tables import hico_vocabulary, vcoco_actions
from ggnet.errors import UserError
from ggnet.eval.hico_mat import read_hico_mat, write_hico_mat
from ggnet.eval.mat_cells import write_cells
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.eval.report import METRICS
from ggnet.eval.score import score_file
from ggnet.eval.writers import FORMATS, check_writable

NAMES = [f"HICO_test2015_{number:08}.jpg" for number in (30, 4, 11)]  # not in order


@pytest.fixture
def hico(tmp_path):
    """Three images whose inclusive boxes, counted from 1, are known: someone rides a bicycle."""
    entries = [
        {
            "file_name": name,
            "annotations": [
                {"bbox": [1 + number, 1, 20, 30], "category_id": 1},
                {"bbox": [11, 11, 40, 40 + number], "category_id": 2},
            ],
            "hoi_annotation": [
                {"subject_id": 0, "object_id": 1, "category_id": verb} for verb in (77, 37)
            ],
        }
        for number, name in enumerate(NAMES)
    ]
    (tmp_path / "test_hico.json").write_text(json.dumps(entries))
    return convert("hico-ppdm", tmp_path / "hico", test=tmp_path / "test_hico.json")


def ground_truth(dataset):
    """The annotated pairs, and after them one each that is no HOI."""
    return [
        ImagePrediction(
            record.image_id,
            record.file_name,
            record.boxes[[*record.pairs[:, 0], 0]],
            record.boxes[[*record.pairs[:, 1], 1]],
            record.labels[[*record.pairs[:, 1], 1]],
            np.array([*record.pairs[:, 2], 0]),  # nobody adjusts a bicycle
            np.linspace(0.9, 0.1, len(record.pairs) + 1),
        )
        for record in dataset.load("test", look_for_images=False)
    ]


def test_all_formats_by_one_command(hico, tmp_path, capsys):
    file, out = tmp_path / "own.json", tmp_path / "out"
    write_predictions(file, ground_truth(hico), hico.vocabulary)
    formats = ["--write", "hico-mat", "--write", "ppdm-json"]
    command = ["eval", "--predictions", str(file), "--out", str(out), *formats]
    assert main([*command, f"data.root={hico.root}"]) == 0
    assert f"For other evaluators: {out / 'detections.mat'}, " in capsys.readouterr().out
    ap = json.loads((out / METRICS).read_text())["mean_ap"]["default"]["full"]
    for name in ("detections.mat", "ppdm.json"):
        result = score_file(out / name, hico, "test", EvalConfig()).result
        assert result.mean_ap() == ap == pytest.approx(100)


def test_the_mat_is_what_the_official_evaluator_reads(hico, tmp_path):
    """As eval_one.m: for each HOI and image of the lists, boxes + 1 against the annotated ones."""
    records = hico.load("test", look_for_images=False)
    path = tmp_path / "detections.mat"
    write_hico_mat(path, ground_truth(hico), records, hico.vocabulary)
    cells = loadmat(path)["all_boxes"]
    assert cells.shape == (600, 3)
    annotated = json.loads((tmp_path / "test_hico.json").read_text())
    names = [hico.vocabulary.hoi_name(hoi) for hoi in range(600)]
    for column, name in enumerate(sorted(NAMES)):
        (entry,) = (row for row in annotated if row["file_name"] == name)
        boxes = [*entry["annotations"][0]["bbox"], *entry["annotations"][1]["bbox"]]
        for hoi, text in enumerate(names):
            found = cells[hoi, column]
            if text in ("ride bicycle", "hold bicycle"):
                np.testing.assert_array_equal(found[:, :8] + 1, [boxes])
                assert found[0, 8] == (0.9 if text == "ride bicycle" else 0.5)
            else:
                assert not found.size


def test_the_mat_comes_back(tmp_path):
    vocabulary, random = hico_vocabulary(), np.random.default_rng(0)
    nothing = np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 3), int)
    records = [ImageRecord(name, f"id of {name}", None, *nothing) for name in NAMES]
    predictions = []
    for record, count in zip(records, (40, 0, 7), strict=True):
        verbs, objects = np.array(vocabulary.hois)[random.integers(0, 600, count)].T
        boxes = random.uniform(0, 400, (2, count, 4)).astype(np.float32)
        scores = random.permutation(count) / 64
        found = record.image_id, record.file_name, *boxes, objects, verbs, scores
        predictions.append(ImagePrediction(*found))
    write_hico_mat(tmp_path / "a.mat", predictions, records, vocabulary)
    back = {p.image_id: p for p in read_hico_mat(tmp_path / "a.mat", records, vocabulary)}
    assert len(back) == 3
    for expected in predictions:
        found = back[expected.image_id]
        mine, theirs = np.argsort(found.scores), np.argsort(expected.scores)
        for name in ("human_boxes", "object_boxes", "object_labels", "verbs", "scores"):
            np.testing.assert_array_equal(
                getattr(found, name)[mine], getattr(expected, name)[theirs], err_msg=name
            )


def test_cells_are_the_bytes_that_scipy_writes(tmp_path):
    random = np.random.default_rng(0)
    filled = {(0, 1): random.random((3, 9)), (4, 0): random.random((1, 9))}
    whole = np.empty((5, 2), dtype=object)
    for index in np.ndindex(whole.shape):
        whole[index] = filled.get(index, np.zeros((0, 9)))
    theirs, ours = io.BytesIO(), io.BytesIO()
    savemat(theirs, {"all_boxes": whole})
    write_cells(ours, "all_boxes", whole.shape, filled, columns=9)
    head, body = ours.getvalue()[:128], ours.getvalue()[128:]
    assert head[116:] == theirs.getvalue()[116:128]
    assert struct.unpack("<II", body[:8]) == (15, len(body) - 8)
    assert zlib.decompress(body[8:]) == theirs.getvalue()[128:]
    ours.seek(0)
    np.testing.assert_array_equal(loadmat(ours)["all_boxes"][0, 1], filled[0, 1])


def test_more_than_such_a_file_holds_is_refused():
    with pytest.raises(ValueError, match=r"boxes would take 2\.2 GiB"):
        write_cells(io.BytesIO(), "boxes", (600, 70000), {}, columns=9)


def cells(value=None, shape=(600, 3)):
    values = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        values[index] = np.zeros((0, 9))
    if value is not None:
        values[7, 1] = value
    return {"all_boxes": values}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (cells(shape=(600, 4)), r"all_boxes is object of \(600, 4\); expected .* 3 images"),
        ({"all_boxes": np.zeros((600, 3))}, r"all_boxes is float64"),
        ({"boxes": np.zeros(3)}, r"is not HICO-DET's \.mat \(KeyError"),
        (cells(np.zeros((2, 5))), r"HOI 8, image 2: numbers of shape \(2, 5\)"),
        (cells(np.full((1, 9), np.nan)), r"HOI 8, image 2: a box or score is not a finite"),
        (cells("text"), r"HOI 8, image 2"),
        (None, r"is not HICO-DET's \.mat"),
    ],
)
def test_broken_mats_are_named(hico, tmp_path, content, message):
    path = tmp_path / "a.mat"
    if content is None:
        path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(100))
    else:
        savemat(path, content)
    with pytest.raises(UserError, match=message):
        score_file(path, hico, "test", EvalConfig())


def test_the_pickle_is_what_the_official_evaluator_reads(vcoco, tmp_path):
    """As vsrl_eval collects an image's detections: every key of every action in every entry."""
    (record,) = vcoco.load("test")
    prediction = ImagePrediction(
        record.image_id,
        record.file_name,
        record.boxes[[0, 0]],
        record.boxes[[2, 2]],
        record.labels[[2, 2]],
        np.array([vcoco.vocabulary.verbs.index(verb) for verb in ("hold_obj", "drink_instr")]),
        np.array([0.75, 0.5]),
    )
    write_predictions(tmp_path / "own.json", [prediction], vcoco.vocabulary)
    command = ["eval", "--predictions", str(tmp_path / "own.json"), "--out", str(tmp_path / "out")]
    assert main([*command, "--write", "vcoco-pickle", f"data.root={vcoco.root}"]) == 0
    with open(tmp_path / "out" / "vcoco.pkl", "rb") as file:
        detections = pickle.load(file)
    actions = vcoco_actions()
    agents, roles = [], []
    for row in detections:
        assert row["image_id"] == 7
        agent, role = np.zeros(4 + len(actions)), np.zeros((5 * len(actions), 2))
        agent[:4] = row["person_box"]
        for number, action in enumerate(actions):
            agent[4 + number] = row[f"{action.name}_agent"]
            for place, name in enumerate(action.roles):
                role[5 * number : 5 * number + 5, place] = row[f"{action.name}_{name}"]
        agents.append(agent)
        roles.append(role)
    (agent,), (role,) = agents, roles
    np.testing.assert_array_equal(agent[:4], record.boxes[0] - [0, 0, 1, 1])
    expected = {"hold": 0.75, "drink": 0.5}
    for number, action in enumerate(actions):
        score = expected.get(action.name, np.nan)
        np.testing.assert_equal(agent[4 + number], score)
        if action.name in expected:
            box = [*(record.boxes[2] - [0, 0, 1, 1]), score]
            np.testing.assert_array_equal(role[5 * number : 5 * number + 5, 0], box)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--write", "hico-mat"], "--write needs a folder for the file: give --out"),
        (["--out", "out", "--write", "hicomat"], "did you mean 'hico-mat'?"),
        (["--out", "out", "--write", "vcoco-pickle"], "holds its 25 action-roles; 'hico-det' has"),
    ],
)
def test_what_cannot_be_written_is_said_at_once(hico, tmp_path, capsys, arguments, message):
    command = ["eval", "--predictions", str(tmp_path / "not_read.json"), *arguments]
    assert main([*command, f"data.root={hico.root}"]) == 2
    assert message in capsys.readouterr().err


def test_each_format_checks_its_names():
    check_writable(["ppdm-json"], CUPS)
    for name in ("hico-mat", "vcoco-pickle"):
        with pytest.raises(UserError, match="cups"):
            check_writable([name], CUPS)
    assert set(FORMATS) == {"ppdm-json", "hico-mat", "vcoco-pickle"}

"""`ggnet compare`: pages of runs side by side and of errors."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from samples import CUPS

from ggnet.cli import main
from ggnet.compare import choose, find_failures, open_runs
from ggnet.data.annotations import ImageRecord, load_dataset
from ggnet.engine.evaluation import PREDICTIONS
from ggnet.eval.errors import CAUSES, error_breakdown
from ggnet.eval.predictions import ImagePrediction, read_predictions, write_predictions
from ggnet.eval.report import METRICS
from ggnet.viz.compare import PREDICTED, Failure, draw_failures, draw_runs, meant_pair

HUMAN, BALL, CUP, AWAY = (10, 10, 30, 60), (40, 20, 60, 40), (70, 70, 90, 90), (0, 70, 30, 99)


def record():
    """A person holds a ball and a cup, another one drinks."""
    boxes = np.array([HUMAN, BALL, CUP, AWAY], float)
    pairs = np.array([[0, 1, 0], [0, 2, 0], [3, 2, 1]])
    return ImageRecord("a.png", "a", None, boxes, np.array([0, 1, 2, 0]), pairs)


def prediction(*triplets):
    """(human, object, label, verb, score), ..."""
    humans, objects, labels, verbs, scores = zip(*triplets, strict=True)
    return ImagePrediction(
        "a",
        "a.png",
        np.array(humans, float),
        np.array(objects, float),
        np.array(labels),
        np.array(verbs),
        np.array(scores),
    )


def failure(cause, *triplet):
    image = np.full((100, 100, 3), 200, np.uint8)
    return Failure(image, record(), prediction((*triplet, 0.5)), 0, cause)


@pytest.mark.parametrize(
    ("cause", "triplet", "meant"),
    [
        ("wrong verb", (HUMAN, CUP, 2, 1), (0, 2)),
        ("wrong object class", (HUMAN, BALL, 2, 0), (0, 1)),
        ("wrong pairing", (AWAY, BALL, 1, 0), (3, 2)),
        ("wrong human box", ((60, 0, 80, 30), CUP, 2, 1), (3, 2)),
        ("wrong object box", (HUMAN, (0, 0, 5, 5), 2, 0), (0, 2)),
        ("duplicate", (HUMAN, BALL, 1, 0), (0, 1)),
        ("background", (CUP, (0, 0, 9, 9), 1, 0), None),
        ("wrong pairing", (BALL, (0, 0, 9, 9), 1, 0), None),
    ],
)
def test_what_was_meant(cause, triplet, meant):
    assert meant_pair(failure(cause, *triplet)) == meant


def test_a_page_of_failures():
    found = {
        "wrong verb": [failure("wrong verb", HUMAN, CUP, 2, 1)] * 3,
        "background": [failure("background", CUP, (0, 0, 9, 9), 1, 0)],
    }
    page = draw_failures(found, {"correct": 4, "wrong verb": 3, "background": 1}, CUPS)
    one = draw_failures({"background": found["background"]}, {"background": 1}, CUPS)
    assert page.shape[1] > 3 * 500
    assert page.shape[0] > one.shape[0] + 500
    red = (np.abs(page.astype(int) - PREDICTED) < 40).all(axis=2)
    assert red.sum() > 4 * 100


def test_runs_stand_side_by_side():
    image = np.full((100, 100, 3), 200, np.uint8)
    right = prediction((HUMAN, BALL, 1, 0, 0.9), (HUMAN, CUP, 2, 0, 0.8), (AWAY, CUP, 2, 1, 0.7))
    wrong = prediction((HUMAN, BALL, 1, 2, 0.9))
    pages = [
        draw_runs([(image, record(), runs)], names, CUPS)
        for runs, names in (([right], ["one"]), ([right, wrong], ["one", "two"]))
    ]
    assert pages[1].shape[1] > pages[0].shape[1] * 1.3
    missed = draw_runs([(image, record(), [wrong, wrong])], ["one", "two"], CUPS)
    width = missed.shape[1] // 3
    # the column of the ground truth says what no run has found
    assert not np.array_equal(missed[:, :width], pages[1][:, :width])


@pytest.fixture(scope="module")
def runs(quick, tmp_path_factory):
    """Two finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    for number in (1, 2):
        command = ["train", "--out", str(folder / str(number)), *quick, f"train.seed={number}"]
        assert main([*command, "train.epochs=1"]) == 0
    return folder / "1", folder / "2"


def test_the_command_leaves_a_page(runs, tmp_path, capsys):
    one, two = map(str, runs)
    assert main(["compare", one, two, "--count", "2", "--out", str(tmp_path / "a")]) == 0
    [written] = capsys.readouterr().out.split()
    assert written == str(tmp_path / "a" / "compare.png")
    few = Image.open(written).size
    assert main(["compare", one, two, "--count", "4", "--out", str(tmp_path / "b")]) == 0
    assert Image.open(tmp_path / "b" / "compare.png").size[1] > 1.5 * few[1]


def test_from_another_folder_the_data_beside_the_run_is_found(
    runs, scenes, tmp_path, monkeypatch, capsys
):
    shutil.copytree(runs[0], tmp_path / "here/runs/1")
    shutil.copytree(scenes, tmp_path / "here/data")
    config = tmp_path / "here/runs/1/config.yaml"
    config.write_text(re.sub("root: .*", "root: data", config.read_text()))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["compare", "../here/runs/1", "--failures", "--out", "out"]) == 0
    assert "using the one beside the run" in capsys.readouterr().err


def test_failures_are_those_that_eval_counts(runs, tmp_path, scenes):
    dataset = load_dataset(scenes)
    records = dataset.load("test")
    # The truth in two images; in the others the objects lie elsewhere, and ever less surely.
    predictions = []
    for number, each in enumerate(records):
        human, object_, verbs = each.pairs.T
        predictions.append(
            ImagePrediction(
                each.image_id,
                each.file_name,
                each.boxes[human],
                each.boxes[object_] + (0 if number < 2 else 300),
                each.labels[object_],
                verbs,
                np.linspace(0.9, 0.5, len(verbs)) - number / 100,
            )
        )
    found, counts = find_failures(predictions, records, dataset, 2)
    assert {c: counts[c] for c in CAUSES} == error_breakdown(
        predictions, records, dataset.vocabulary
    ).to_dict()
    assert counts["correct"] > 0
    surest = [each.record.image_id for each in found["wrong object box"]]
    assert surest == [record.image_id for record in records[2:4]]
    for cause, failures in found.items():
        assert cause != "correct"
        assert len({each.record.image_id for each in failures}) == len(failures) <= 2
        scores = [each.prediction.scores[each.row] for each in failures]
        assert scores == sorted(scores, reverse=True)
    # and the command draws them
    one = tmp_path / "one"
    shutil.copytree(runs[0], one)
    write_predictions(one / PREDICTIONS, predictions, dataset.vocabulary)
    assert main(["compare", str(one), "--failures", "--out", str(tmp_path)]) == 0
    assert Image.open(tmp_path / "failures-one.png").size[0] > 500
    (tmp_path / "table1").symlink_to(one)  # whose name says more than the folder's
    assert main(["compare", str(tmp_path / "table1"), "--failures", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "failures-table1.png").exists()


def test_images_are_evenly_spaced_or_named(runs):
    opened = open_runs(runs)
    names = [each.file_name for each in opened.records if len(each.pairs)]
    chosen = [each.file_name for each in choose(opened, 3)]
    assert chosen == [names[0], names[len(names) // 2 - (len(names) + 1) % 2], names[-1]]
    assert [each.file_name for each in choose(opened, 3, [names[1]])] == [names[1]]


def test_a_mistake_is_named(runs, tmp_path, capsys, scenes):
    one, two = map(str, runs)

    def refused(*arguments):
        assert main(["compare", *map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "one run has nothing beside it" in refused(one)
    assert f"{one} and {one} are one run" in refused(one, one)
    (tmp_path / "link").symlink_to(one)
    assert f"{one} and {tmp_path / 'link'} are one run" in refused(one, two, tmp_path / "link")
    assert f"{tmp_path} has no config.yaml: not a run that was evaluated" in refused(one, tmp_path)
    assert "has no image 'nobody.png'" in refused(one, two, "--images", "nobody.png")
    assert "--count is 0" in refused(one, two, "--count", "0")
    assert "--failures chooses its images itself" in refused(one, "--failures", "--top", "3")
    assert "nowhere is not a dataset" in refused(one, two, "--root", "nowhere")
    other = tmp_path / "other"
    shutil.copytree(two, other)
    metrics = json.loads((other / METRICS).read_text())
    (other / METRICS).write_text(json.dumps(metrics | {"split": "val"}))
    assert "were of different splits" in refused(one, other)
    (other / METRICS).write_text("[]")
    assert "metrics.json cannot be read" in refused(one, other)
    (other / METRICS).write_text(json.dumps(metrics))
    found = read_predictions(other / PREDICTIONS, load_dataset(scenes).vocabulary)
    write_predictions(other / PREDICTIONS, found[1:], load_dataset(scenes).vocabulary)
    assert "was evaluated on 5 images, of which 5 are among the 6" in refused(one, other)

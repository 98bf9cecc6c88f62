"""`ggnet eval`: a network, or another detector's boxes, scored by the dataset's own metric."""

import json
import shutil

import numpy as np
import pytest
from samples import save_untrained

from ggnet.cli import main
from ggnet.config import load_config
from ggnet.data.annotations import load_dataset
from ggnet.data.scenes import generate
from ggnet.engine.checkpoint import open_checkpoint
from ggnet.engine.evaluation import evaluate_checkpoint
from ggnet.eval.predictions import read_predictions

SETTINGS = ["data.input_size=[96, 96]", "data.workers=0", "model.width=16", "train.device=cpu"]


def checkpoint(folder, dataset):
    """A run folder with a fresh network for the dataset."""
    config = load_config(None, [*SETTINGS, f"data.root={dataset.root}"])
    save_untrained(folder, config, dataset.vocabulary)
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    generate(root, train=2, test=3, size=96)
    return load_dataset(root)


def test_all_results_of_a_run(scenes, tmp_path, capsys):
    run = checkpoint(tmp_path, scenes)
    assert main(["eval", str(run), "eval.protocol=ppdm", "eval.recall_points=double"]) == 0
    printed = capsys.readouterr().out
    for title in ("ppdm protocol, double recall points", "Object detection, COCO AP", "by cause"):
        assert title in printed
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["protocol"] == "ppdm"
    assert metrics["object_detection"]["metric"] == "COCO AP"
    assert set(metrics["errors"]) >= {"correct", "background", "duplicate"}
    assert (run / "precision_recall.png").stat().st_size > 1000
    assert (run / "ap_per_class.csv").exists()


def test_boxes_of_another_detector(scenes, tmp_path, capsys):
    """With the annotated boxes in place of its own, the network's detection AP is 100."""
    run = checkpoint(tmp_path, scenes)
    entries = [
        {
            "image_id": record.image_id,
            "category_id": scenes.vocabulary.object_ids[label],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": 0.9,
        }
        for record in scenes.load("test")
        for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    out = tmp_path / "out"
    arguments = ["--detections", str(tmp_path / "boxes.json"), "--out", str(out)]
    assert main(["eval", str(run), *arguments]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["object_detection"]["AP"] == pytest.approx(100)
    records = {record.image_id: record.boxes for record in scenes.load("test")}
    for prediction in read_predictions(out / "predictions.json", scenes.vocabulary):
        assert len(prediction)
        for box in np.concatenate([prediction.human_boxes, prediction.object_boxes]):
            assert np.abs(records[prediction.image_id] - box).max(axis=1).min() < 0.01


def test_boxes_need_a_network(tmp_path, capsys):
    assert main(["eval", "--predictions", "p.json", "--detections", "boxes.json"]) == 2
    assert "needs a network" in capsys.readouterr().err


def test_vcoco_is_scored_by_its_own_metric(vcoco, tmp_path, capsys):
    run = checkpoint(tmp_path, vcoco)
    assert main(["eval", str(run), "--classes"]) == 0
    assert "AP of each role" in capsys.readouterr().out
    result = evaluate_checkpoint(open_checkpoint(run), []).result
    assert result.positives["hold"] == 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["metric"] == "V-COCO AP"
    assert "scenario 2, 25 roles" in metrics["mean_role_ap"]
    assert metrics["object_detection"]["metric"] == "COCO AP"
    assert (run / "precision_recall.png").exists()


def test_missing_images_are_not_passed_over(scenes, tmp_path, capsys):
    root = tmp_path / "scenes"
    shutil.copytree(scenes.root, root)
    run = checkpoint(tmp_path, load_dataset(root))
    gone = load_dataset(root).load("test")[1].path
    gone.unlink()
    assert main(["eval", str(run)]) == 2
    error = capsys.readouterr().err
    assert "1 of 3 images of split 'test' are missing" in error
    assert gone.name in error
    assert not (run / "metrics.json").exists()
    assert main(["eval", str(run), "--partial"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["split"], metrics["missing_images"]) == ("test", 1)
    assert len(read_predictions(run / "predictions.json", scenes.vocabulary)) == 2


def test_another_split(scenes, tmp_path, capsys):
    run = checkpoint(tmp_path, scenes)
    assert main(["eval", str(run), "--split", "train"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["split"], metrics["missing_images"]) == ("train", 0)
    assert sum(row["ground_truth"] for row in metrics["classes"]) == sum(
        len(record.pairs) for record in scenes.load("train")
    )
    files = ["--predictions", str(run / "predictions.json"), "--out", str(tmp_path / "again")]
    assert main(["eval", *files, "--split", "train", f"data.root={scenes.root}"]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["classes"] == metrics["classes"]
    assert main(["eval", str(run), "--split", "val"]) == 2
    assert "no split 'val'; it has train, test" in capsys.readouterr().err


def test_val_stands_in_for_a_test_that_is_not_there(scenes, tmp_path, capsys):
    """And a split alone is scored, if the dataset lists its rare HOIs."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes.root, root)
    description = json.loads((root / "dataset.json").read_text())
    description |= {"splits": {"val": description["splits"]["test"]}, "rare": [0]}
    (root / "dataset.json").write_text(json.dumps(description))
    (root / "train.json").unlink()
    run = checkpoint(tmp_path, scenes)
    assert main(["eval", str(run), f"data.root={root}"]) == 0
    assert f"Results of split val in {run}" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["split"] == "val"
    assert {"rare", "non-rare"} <= metrics["mean_ap"]["default"].keys()

"""A prediction file, whoever made it, is scored against a converted dataset without its images."""

import json

import numpy as np
import pytest
from PIL import Image

from ggnet.config import EvalConfig
from ggnet.data.convert import convert
from ggnet.engine.plots import plot_report
from ggnet.errors import UserError
from ggnet.eval.foreign import write_ppdm, write_vcoco_pickle
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.eval.score import score, score_file
from ggnet.eval.vcoco import role_predictions
from ggnet.viz.precision_recall import plot_precision_recall


def ground_truth(dataset):
    return [
        ImagePrediction(
            record.image_id,
            record.file_name,
            record.boxes[record.pairs[:, 0]],
            record.boxes[record.pairs[:, 1]],
            record.labels[record.pairs[:, 1]],
            record.pairs[:, 2],
            np.linspace(0.9, 0.1, len(record.pairs), dtype=np.float32),
        )
        for record in dataset.load("test", look_for_images=False)
    ]


@pytest.fixture
def hico(tmp_path):
    """Two images: someone rides and holds a bicycle, someone pets a dog."""
    entries = [
        {
            "file_name": "HICO_test2015_00000001.jpg",
            "annotations": [
                {"bbox": [1, 1, 20, 30], "category_id": 1},
                {"bbox": [11, 11, 40, 40], "category_id": 2},
            ],
            "hoi_annotation": [
                {"subject_id": 0, "object_id": 1, "category_id": verb} for verb in (77, 37)
            ],
        },
        {
            "file_name": "HICO_test2015_00000002.jpg",
            "annotations": [
                {"bbox": [1, 1, 20, 30], "category_id": 1},
                {"bbox": [31, 11, 60, 40], "category_id": 18},
            ],
            "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 66}],
        },
    ]
    (tmp_path / "test_hico.json").write_text(json.dumps(entries))
    return convert("hico-ppdm", tmp_path / "hico", test=tmp_path / "test_hico.json")


def test_hico_from_both_json_dialects(hico, tmp_path):
    predictions = ground_truth(hico)
    write_predictions(tmp_path / "own.json", predictions, hico.vocabulary)
    write_ppdm(tmp_path / "ppdm.json", predictions, hico.vocabulary)
    for name in ("own.json", "ppdm.json"):
        result = score_file(tmp_path / name, hico, "test", EvalConfig()).result
        assert result.mean_ap() == pytest.approx(100)
        assert result.ground_truth.sum() == 3
        assert set(result.groups) == {"full", "rare", "non-rare"}


def test_a_pickle_needs_roles(hico, tmp_path):
    with pytest.raises(UserError, match="has no roles to score it with"):
        score_file(tmp_path / "detections.pkl", hico, "test", EvalConfig())
    with pytest.raises(UserError, match=r"cannot read .*none\.json"):
        score_file(tmp_path / "none.json", hico, "test", EvalConfig())


def test_vcoco_from_json_and_pickle(vcoco, tmp_path):
    predictions = ground_truth(vcoco)
    write_predictions(tmp_path / "own.json", predictions, vcoco.vocabulary)
    found = role_predictions(predictions, vcoco.vocabulary)
    write_vcoco_pickle(tmp_path / "detections.pkl", found)
    for name in ("own.json", "detections.pkl"):
        result = score_file(tmp_path / name, vcoco, "test", EvalConfig()).result
        assert result.mean_role_ap() == 100
        assert result.positives["hold"] == result.positives["stand"] == 1
        assert result.agent_ap["hold"] == 100
        assert result.agent_ap["stand"] == 0  # nothing but pairs was predicted


def test_protocol_and_points_are_passed_on(hico, tmp_path):
    config = EvalConfig(protocol="no-frills", recall_points="double")
    result = score(ground_truth(hico), hico, "test", config).result
    assert (result.protocol, result.recall_points) == ("no-frills", "double")


def test_report_of_a_file(hico, vcoco, tmp_path):
    for dataset in (hico, vcoco):
        predictions = ground_truth(dataset)
        write_predictions(tmp_path / "own.json", predictions, dataset.vocabulary)
        report = score_file(tmp_path / "own.json", dataset, "test", EvalConfig())
        pairs = sum(len(prediction) for prediction in predictions)
        assert report.errors.to_dict()["correct"] == pairs
        assert report.detection is None  # the file has no boxes but those of triplets
        report.write(tmp_path)
        plot_report(report, tmp_path)
        assert json.loads((tmp_path / "metrics.json").read_text())["errors"]["correct"] == pairs
        for name in ("precision_recall.png", "f1.png"):
            assert Image.open(tmp_path / name).size[0] > 500
        best = json.loads((tmp_path / "metrics.json").read_text())["best_f1"]
        assert (best["precision"], best["recall"]) == (1, pytest.approx(1))


def test_vcoco_without_roles_says_so(tmp_path, caplog):
    entry = {
        "file_name": "COCO_val2014_000000000007.jpg",
        "annotations": [
            {"bbox": [0, 0, 20, 40], "category_id": 1},
            {"bbox": [20, 20, 30, 30], "category_id": 47},
        ],
        "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 25}],
    }
    (tmp_path / "v.json").write_text(json.dumps([entry]))
    file = tmp_path / "v.json"
    dataset = convert("vcoco-ppdm", tmp_path / "vcoco", train=file, test=file)
    write_predictions(tmp_path / "own.json", ground_truth(dataset), dataset.vocabulary)
    with caplog.at_level("WARNING", "ggnet"):
        result = score_file(tmp_path / "own.json", dataset, "test", EvalConfig()).result
    assert result.headline()["mAP_known_object"] == pytest.approx(100)  # HICO's
    assert "has no roles, so this is HICO's metric" in caplog.text


def test_no_curves_to_plot(tmp_path):
    with pytest.raises(ValueError, match="curves is empty"):
        plot_precision_recall({}, tmp_path / "none.png")

"""HOIs kept from training: which they are, what training loses, what the metric reports."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ggnet.cli import main
from ggnet.config import Config, EvalConfig, load_config
from ggnet.data.annotations import hoi_counts, load_dataset
from ggnet.data.convert import convert
from ggnet.data.problems import Problems
from ggnet.data.tables import hico_rare, hico_vocabulary
from ggnet.data.unseen import (
    PUBLISHED,
    Unseen,
    open_dataset,
    read_unseen,
    training_records,
    training_vocabulary,
    without_unseen,
)
from ggnet.engine.checkpoint import open_checkpoint
from ggnet.engine.distributed import join_workers
from ggnet.engine.trainer import Trainer
from ggnet.errors import UserError
from ggnet.eval.predictions import ImagePrediction
from ggnet.eval.report import METRICS
from ggnet.eval.score import score


def test_published_splits_have_their_papers_sizes_and_properties():
    vocabulary, rare = hico_vocabulary(), hico_rare()
    hois = {name: read_unseen(name, vocabulary).hois for name in PUBLISHED}
    assert {name: int(which.sum()) for name, which in hois.items()} == {
        "rf-uc": 120,
        "nf-uc": 120,
        "uo": 100,
        "uv": 84,
    }
    assert rare[hois["rf-uc"]].mean() > 0.8 > 0.1 > rare[hois["nf-uc"]].mean()
    verbs, objects = np.array(vocabulary.hois).T

    def whole(names, which):  # those that occur among the unseen alone
        return len(set(names[which]) - set(names[~which]))

    assert whole(objects, hois["uo"]) == 12
    assert set(objects[hois["uo"]]).isdisjoint(objects[~hois["uo"]])
    assert whole(verbs, hois["uv"]) == 20
    assert set(verbs[hois["uv"]]).isdisjoint(verbs[~hois["uv"]])
    for name in ("rf-uc", "nf-uc"):  # each verb and each object is known from another HOI
        assert whole(objects, hois[name]) == whole(verbs, hois[name]) == 0


def test_published_splits_follow_names_not_indices():
    vocabulary = hico_vocabulary()
    turned = replace(vocabulary, hois=vocabulary.hois[::-1])
    assert (read_unseen("UO", turned).hois == read_unseen("uo", vocabulary).hois[::-1]).all()


@pytest.fixture
def cups(tmp_path):
    """Four images: one with an unseen pair alone, one with such a verb beside another, one with an
    unseen and a seen pair, one without pairs. HOIs: hold ball, hold cup, drink cup, throw ball."""
    boxes = [
        {"bbox": [0, 0, 10, 20], "category_id": 1},
        {"bbox": [5, 5, 15, 15], "category_id": 3},
        {"bbox": [20, 5, 30, 15], "category_id": 2},
    ]

    def image(name, *pairs):
        rows = [{"subject_id": 0, "object_id": o, "category_id": v} for o, v in pairs]
        return {"file_name": name, "annotations": boxes, "hoi_annotation": rows}

    images = [
        image("alone.jpg", (1, 2)),
        image("beside.jpg", (1, 1), (1, 2), (2, 3)),
        image("apart.jpg", (2, 1), (1, 2)),
        image("nothing.jpg"),
    ]
    description = {
        "name": "cups",
        "objects": [{"id": i, "name": n} for i, n in enumerate(("person", "ball", "cup"), 1)],
        "verbs": [{"id": i, "name": n} for i, n in enumerate(("hold", "drink", "throw"), 1)],
        "hois": [[1, 2], [1, 3], [2, 3], [3, 2]],
        "splits": {"train": {"annotations": "train.json", "images": "images"}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "train.json").write_text(json.dumps(images))
    (tmp_path / "images").mkdir()
    for row in images:
        (tmp_path / "images" / row["file_name"]).touch()
    return tmp_path


def test_training_loses_pairs_of_boxes_with_an_unseen_hoi(cups):
    config = Config()
    config.data.root, config.data.hois_unseen = str(cups), (2,)  # drink cup
    dataset = open_dataset(config.data)
    records = {record.file_name: record for record in training_records(dataset)}
    assert {name: record.pairs.tolist() for name, record in records.items()} == {
        "beside.jpg": [[0, 2, 2]],  # "hold cup" of the same boxes is gone with "drink cup"
        "apart.jpg": [[0, 2, 0]],
        "nothing.jpg": [],
    }
    assert all(len(record.boxes) == 3 for record in records.values())
    assert training_vocabulary(dataset).hois == ((0, 1), (0, 2), (2, 1))
    assert len(dataset.load("train")) == 4  # the dataset itself is as it was
    assert dataset.train_counts.tolist() == [1, 1, 3, 1]


def test_published_splits_on_the_real_annotations(shared, tmp_path):
    """Images and pairs that are left, against the rule of the published code written anew: no pair
    of two boxes (without classes merged) any of whose HOIs is unseen."""
    file = shared / "hicodet_instances_test2015.json"
    dataset = convert("hico-json", tmp_path, train=file, merge=False, problems=Problems())
    records = dataset.load("train", look_for_images=False)
    raw = json.loads(file.read_text())
    hoi = {(object_, verb): hoi for hoi, object_, verb in raw["correspondence"]}
    for name in PUBLISHED:
        unseen = read_unseen(name, dataset.vocabulary)
        numbers = set(np.flatnonzero(unseen.hois).tolist())
        images = pairs = 0
        for image in raw["annotation"]:
            rows = {
                (tuple(human), tuple(thing), object_, verb)
                for human, thing, object_, verb in zip(
                    *(image[key] for key in ("boxes_h", "boxes_o", "object", "verb")), strict=True
                )
            }
            lost = {row[:3] for row in rows if hoi[row[2:]] in numbers}
            left = [row for row in rows if row[:3] not in lost]
            images, pairs = images + bool(left), pairs + len(left)
        kept = without_unseen(records, replace(dataset, unseen=unseen))
        assert (len(kept), sum(len(record.pairs) for record in kept)) == (images, pairs)
        assert not hoi_counts(kept, dataset.vocabulary)[unseen.hois].any()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rf_uc", "did you mean 'rf-uc'"),
        ("unseen.yaml", r"a JSON file with a list of HOIs"),
        ("none.json", r"cannot read none\.json"),
        ("rf-uc", "rf-uc, which is a split of HICO-DET's HOIs; cups has no"),
        ("[]", "lists no HOI"),
        ("[0, 1, 2, 3]", "lists all 4 HOIs"),
        ("[4]", "4 is no HOI; expected an index from 0 to 3"),
        ("[-1]", "-1 is no HOI"),
        ("[true]", "True is no HOI"),
        ('["drink cup"]', "'drink cup' is no HOI"),
        ('[["drink", "cups"]]', r"no HOI \['drink', 'cups'\]; did you mean \['drink', 'cup'\]"),
        ('{"unseen": [1]}', "holds a dict; expected a list"),
    ],
)
def test_what_names_no_hois_is_refused(cups, tmp_path, value, message):
    if value[0] in "[{":
        (tmp_path / "list.json").write_text(value)
        value = str(tmp_path / "list.json")
    with pytest.raises(UserError, match=message):
        read_unseen(value, load_dataset(cups).vocabulary)


def test_seen_and_unseen_means(cups):
    dataset = load_dataset(cups)
    unseen = Unseen("mine", np.array([False, False, True, True]))
    dataset = replace(dataset, unseen=unseen)
    record = dataset.load("train", look_for_images=False)[1]  # hold cup, drink cup, throw ball
    right = ImagePrediction(
        record.image_id,
        record.file_name,
        record.boxes[record.pairs[:, 0]],
        record.boxes[record.pairs[:, 1]],
        record.labels[record.pairs[:, 1]],
        np.array([0, 1, 1]),  # throw ball is taken for drink ball, which is no HOI
        np.array([0.9, 0.8, 0.7]),
    )
    result = score([right], dataset, "train", EvalConfig(), [record]).result
    assert result.mean_ap(group="seen") == 100  # hold cup; hold ball is not there
    assert result.mean_ap(group="unseen") == 50
    assert result.headline()["mAP_unseen"] == 50
    assert result.to_dict()["unseen"] == "mine"
    assert result.table().title.endswith(", unseen: mine")
    assert [row["unseen"] for row in result.to_dict()["classes"]] == [False, False, True, True]


def test_the_trainer_sees_only_seen_hois(cups, tmp_path):
    """Its records lack them, its targets make them nobody's hard negatives; the network keeps all
    names."""
    for file in (cups / "images").glob("*.jpg"):
        Image.new("RGB", (64, 64)).save(file)
    settings = [f"data.root={cups}", "data.hois_unseen=[2]", "data.input_size=[64,64]"]
    config = load_config(None, [*settings, "data.workers=0", "train.loggers=[]"])
    with join_workers("cpu") as worker:
        trainer = Trainer(config, tmp_path / "run", worker, Console(quiet=True))
    assert sum(len(record.pairs) for record in trainer.records) == 2
    assert trainer.loader.dataset.vocabulary.hois == ((0, 1), (0, 2), (2, 1))
    assert len(trainer.vocabulary.hois) == 4


def test_a_run_keeps_its_unseen_hois(scenes, quick, tmp_path, capsys):
    """The list is stored in the run: eval reports by it although the file is gone."""
    file = tmp_path / "mine.json"
    vocabulary = load_dataset(scenes).vocabulary
    verb, object_ = vocabulary.hois[3]
    file.write_text(json.dumps([0, [vocabulary.verbs[verb], vocabulary.objects[object_]]]))
    run = tmp_path / "run"
    overrides = [*quick, "train.epochs=1", f"data.hois_unseen={file}"]
    assert main(["train", "--out", str(run), *overrides]) == 0
    assert "without 2 unseen HOIs" in capsys.readouterr().out
    file.unlink()
    assert open_checkpoint(run).config.data.hois_unseen == (0, 3)
    assert load_config(run / "config.yaml").data.hois_unseen == (0, 3)
    assert main(["eval", str(run), "--out", str(tmp_path / "again")]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "unseen: 2 of" in text
    for folder in (run, tmp_path / "again"):
        means = json.loads((folder / METRICS).read_text())["mean_ap"]["default"]
        assert {"full", "seen", "unseen"} <= means.keys()


def test_vcocos_metric_has_no_hois(vcoco):
    config = Config()
    config.data.root, config.data.hois_unseen = str(vcoco.root), (0,)
    with pytest.raises(UserError, match="scored by V-COCO's metric"):
        open_dataset(config.data)

"""The scripts behind docs/paper.md: changed scenes, and the curve of sparse gaze."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import save_untrained

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench/ is not installed

from bench import hna_scenes, sparse  # noqa: E402
from bench.publish import END  # noqa: E402
from ggnet.config import load_config  # noqa: E402
from ggnet.data.annotations import load_dataset  # noqa: E402
from ggnet.data.scenes import generate  # noqa: E402
from ggnet.data.scenes.stats import statistics  # noqa: E402

COUNTS = {"train": 30, "test": 12}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain") / "scenes"
    generate(root, **COUNTS, workers=1)
    return load_dataset(root)


def changed(name, folder, monkeypatch):
    monkeypatch.setattr(hna_scenes, "COUNTS", COUNTS)
    monkeypatch.setattr(hna_scenes, "SPARE", 3.0)
    monkeypatch.setattr(sys, "argv", ["hna_scenes", name, "--data", str(folder)])
    assert hna_scenes.main() == 0
    assert [path.name for path in folder.iterdir()] == [f"scenes-{name}"]
    return load_dataset(folder / f"scenes-{name}")


def labels(dataset, split):
    return sum(len(record.pairs) for record in dataset.load(split))


def test_labels_go_missing_in_training_alone(plain, tmp_path, monkeypatch):
    dataset = changed("labels", tmp_path, monkeypatch)
    assert 0.5 < labels(dataset, "train") / labels(plain, "train") < 0.9
    assert labels(dataset, "test") == labels(plain, "test")
    boxes = [sum(len(r.boxes) for r in d.load("train")) for d in (dataset, plain)]
    assert boxes[0] == boxes[1]


def test_each_object_is_possible_with_each_verb(plain, tmp_path, monkeypatch):
    dataset = changed("confusers", tmp_path, monkeypatch)
    pairs = dataset.vocabulary.valid_pairs
    assert pairs[:, 1:].all()
    assert not pairs[:, 0].any()  # the person
    assert dataset.vocabulary.hois[: len(plain.vocabulary.hois)] == plain.vocabulary.hois
    for split in COUNTS:
        assert labels(dataset, split) == labels(plain, split)


def test_no_pairs_cross(plain, tmp_path, monkeypatch):
    dataset = changed("apart", tmp_path, monkeypatch)
    name = "% of pairs that cross (midpoints within 8 pixels)"
    assert statistics(plain.root)["train"][name] > 0
    for split, count in COUNTS.items():
        assert statistics(dataset.root)[split][name] == 0
        assert len(dataset.load(split)) == count
        assert len(list((dataset.root / "images" / split).iterdir())) == count


def test_the_curve_of_sparse_gaze(plain, tmp_path, monkeypatch):
    page, out = tmp_path / "paper.md", tmp_path / "sparse-demo.json"
    page.write_text(f"before\n{sparse.BEGIN}\nold\n{END}after\n")
    monkeypatch.setattr(sparse, "PAGE", page)
    monkeypatch.setattr(sparse, "PICTURE", tmp_path / "curve.png")
    monkeypatch.setattr(sparse, "IMAGES", 1)
    config = load_config("demo", [f"data.root={plain.root}", "model.width=16"])
    save_untrained(tmp_path / "run", config, plain.vocabulary)
    few = ["--repeats", "3", "--out", str(tmp_path)]
    monkeypatch.setattr(
        sys, "argv", ["sparse", "--run", str(tmp_path / "run"), "--network", "demo", *few]
    )
    assert sparse.main() == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["cells"] for row in rows[:3]] == [None, 512, 256]
    assert rows[0]["overlap"] == 1.0
    overlaps = [row["overlap"] for row in rows]
    assert overlaps == sorted(overlaps, reverse=True)
    assert np.isfinite([row["seconds"] for row in rows]).all()
    monkeypatch.setattr(sys, "argv", ["sparse", "--publish", str(out)])
    assert sparse.main() == 0
    text = page.read_text()
    assert "old" not in text
    assert "| demo | all 1024 |" in text
    assert (tmp_path / "curve.png").stat().st_size > 5000

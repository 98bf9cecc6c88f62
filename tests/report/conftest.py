"""A dataset with names that a page must not take for HTML, and predictions of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import save_untrained

from ggnet.cli import main
from ggnet.config import Config, load_config
from ggnet.data.annotations import Dataset, load_dataset
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.eval.report import Report
from ggnet.eval.score import score_file

VERBS = ["<script>window.ran=1</script>", "</script><script>window.ran=2</script>", "hold_on"]
OBJECTS = ["person", "cup & 'saucer'", '<img src=x onerror="window.ran=3">', "ball"]
FILES = ["<b onclick=x>&amp;.png", "日本 %41 #1.png", "'quoted' \"name\".png"]
IMAGES = 30


@dataclass
class Awkward:
    root: Path
    predictions: Path
    dataset: Dataset
    report: Report


@pytest.fixture(scope="session")
def awkward(tmp_path_factory) -> Awkward:
    """30 images of several sizes with 0 to 4 pairs, and triplets near them and elsewhere."""
    rng = np.random.default_rng(np.random.SeedSequence())
    root = tmp_path_factory.mktemp("awkward") / "data"
    (root / "images").mkdir(parents=True)
    hois = [[1, 2], [2, 2], [2, 3], [3, 4], [1, 4]]
    described = {
        "name": "awkward <i>names</i>",
        "objects": [{"id": i, "name": name} for i, name in enumerate(OBJECTS, 1)],
        "verbs": [{"id": i, "name": name} for i, name in enumerate(VERBS, 1)],
        "hois": hois,
        "splits": {
            name: {"annotations": "test.json", "images": "images"} for name in ("train", "test")
        },
    }
    (root / "dataset.json").write_text(json.dumps(described))
    names = [*FILES, *(f"{number}.png" for number in range(len(FILES), IMAGES))]
    records = [_record(name, hois, root / "images", rng) for name in names]
    (root / "test.json").write_text(json.dumps(records))
    dataset = load_dataset(root)
    found = [_prediction(record, rng) for record in dataset.load("test")]
    path = root.parent / "predictions.json"
    write_predictions(path, found, dataset.vocabulary)
    config = load_config(None, [])
    return Awkward(root, path, dataset, score_file(path, dataset, "test", config.eval))


def _record(name: str, hois: list, folder: Path, rng: np.random.Generator) -> dict:
    width, height = (int(side) for side in rng.integers(60, 700, 2))
    pixels = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((width, height)).save(folder / name)
    annotations, pairs = [], {}
    for _ in range(rng.integers(0, 5)):
        verb, object_ = hois[rng.integers(len(hois))]
        for category in (1, object_):
            x, y = rng.random(2) * [width, height] * 0.6
            box = [x, y, x + width * 0.3, y + height * 0.3]
            annotations.append({"bbox": box, "category_id": category})
        first = len(annotations) - 2
        pairs[first, first + 1] = verb
    return {
        "file_name": name,
        "annotations": annotations,
        "hoi_annotation": [
            {"subject_id": h, "object_id": o, "category_id": v} for (h, o), v in pairs.items()
        ],
    }


def _prediction(record, rng: np.random.Generator) -> ImagePrediction:
    count = int(rng.integers(0, 40))
    boxes = rng.random((2, count, 4)) * 50
    boxes[..., 2:] += boxes[..., :2] + 5
    labels, verbs = rng.integers(1, 4, count), rng.integers(0, 3, count)
    if len(record.pairs):  # most near an annotated pair, some of them with other names
        near = rng.random(count) < 0.7
        pairs = record.pairs[rng.integers(0, len(record.pairs), count)]
        for side in (0, 1):
            moved = record.boxes[pairs[:, side]] + rng.normal(0, 4, (count, 4))
            boxes[side][near] = moved[near]
        same = near & (rng.random(count) < 0.7)
        labels[same], verbs[same] = record.labels[pairs[same, 1]], pairs[same, 2]
    return ImagePrediction(
        record.image_id,
        record.file_name,
        boxes[0].astype(np.float32),
        boxes[1].astype(np.float32),
        labels,
        verbs,
        rng.random(count).astype(np.float32) ** 3,
    )


@pytest.fixture(scope="session")
def evaluated(scenes, tmp_path_factory):
    """The run folder of an untrained network, evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    config = Config()
    config.data.root, config.data.input_size, config.data.workers = str(scenes), (64, 64), 0
    config.model.width, config.model.points_per_step = 16, 9
    config.train.device, config.eval.batch_size = "cpu", 4
    save_untrained(folder, config, load_dataset(scenes).vocabulary)
    assert main(["eval", str(folder)]) == 0
    return folder

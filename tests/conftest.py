"""What tests of several parts share: data, and the settings of a quick run."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ggnet.cores import limit_threads
from ggnet.data.convert import convert
from ggnet.data.scenes import generate
from ggnet.data.tables import vcoco_actions

limit_threads()  # nothing above imports torch


@pytest.fixture(scope="session")
def shared():
    """The folder of real annotations and photos beside the repository."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real annotations at {folder}")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """A small bundled dataset: 16 training and 6 test images."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    generate(root, train=16, test=6, workers=1)
    return root


@pytest.fixture(scope="session")
def quick(scenes):
    """Overrides for a run of seconds: 3 epochs of 4 steps on `scenes`."""
    return [
        f"data.root={scenes}",
        "data.input_size=[64,64]",
        "data.workers=0",
        "model.width=16",
        "model.points_per_step=9",
        "train.epochs=3",
        "train.batch_size=4",
        "train.lr=1e-3",
        "train.device=cpu",
        "train.loggers=[]",
        "eval.batch_size=4",
    ]


@pytest.fixture
def vcoco(tmp_path):
    """One photo of V-COCO's official format: the first of two persons holds a cup and stands."""
    rows = []
    for action in vcoco_actions():
        labels = [int(action.name in ("hold", "stand")), 0]
        objects = [[300, 0] if action.name == "hold" else [0, 0] for _ in action.roles]
        rows.append(
            {
                "action_name": action.name,
                "role_name": ["agent", *action.roles],
                "image_id": [7, 7],
                "ann_id": [100, 200],
                "label": labels,
                "role_object_id": [100, 200, *(id_ for column in objects for id_ in column)],
            }
        )
    boxes = {100: (1, [0, 0, 20, 40]), 200: (1, [50, 0, 20, 40]), 300: (47, [20, 20, 10, 10])}
    name = "COCO_val2014_000000000007.jpg"
    coco = {
        "images": [{"id": 7, "file_name": name, "width": 99, "height": 99}],
        "annotations": [
            {"id": id_, "image_id": 7, "category_id": category, "bbox": box, "area": 100.0}
            for id_, (category, box) in boxes.items()
        ],
    }
    file, instances = tmp_path / "vcoco_test.json", tmp_path / "instances.json"
    file.write_text(json.dumps(rows))
    instances.write_text(json.dumps(coco))
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / name), np.full((99, 99, 3), 90, np.uint8))
    files = {"train": file, "test": file, "train_images": photos, "test_images": photos}
    return convert("vcoco-official", tmp_path / "vcoco", **files, coco=[instances])

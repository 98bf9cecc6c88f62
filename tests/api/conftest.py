"""A network that finds something, in a run folder."""

import json

import numpy as np
import pytest
from PIL import Image
from samples import save_untrained

import ggnet
from ggnet.config import Config


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run folder of an untrained network that was evaluated."""
    config = Config()
    config.data.input_size = (64, 96)
    folder = tmp_path_factory.mktemp("runs") / "cups"
    save_untrained(folder, config)
    best = {"threshold": 0.05, "f1": 0.5, "precision": 0.5, "recall": 0.5}
    (folder / "metrics.json").write_text(json.dumps({"best_f1": best}))
    return folder


@pytest.fixture(scope="session")
def model(run):
    return ggnet.load(run, device="cpu")


@pytest.fixture(scope="session")
def photo(tmp_path_factory):
    """A noisy image file, without loss."""
    path = tmp_path_factory.mktemp("photos") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def pixels(photo):
    return np.array(Image.open(photo))

"""What tests of several parts share: data, and the settings of a quick run."""

from pathlib import Path

import pytest

from ggnet.data.scenes import generate


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
        "train.tensorboard=false",
        "eval.batch_size=4",
    ]

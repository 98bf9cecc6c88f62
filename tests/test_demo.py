"""The demo leaves a complete run folder, goes on where it was, and the network learns."""

import pytest
from PIL import Image
from rich.console import Console

from ggnet.demo import demo
from ggnet.engine.checkpoint import LAST, load_checkpoint
from ggnet.engine.signals import Interrupted
from ggnet.engine.trainer import Trainer
from ggnet.errors import UserError

QUIET = Console(quiet=True)
# A fifth of the demo's training, on fewer scenes. It reached 12.2; 2.1 after two of the epochs.
SHORT = [
    "scenes.train=600",
    "scenes.test=150",
    "model.points_per_step=9",
    "train.epochs=6",
    "train.loggers=[]",
]
FLOOR = 5.0


@pytest.fixture
def small(quick, tmp_path):
    return [*quick, f"data.root={tmp_path / 'scenes'}", "scenes.train=8", "scenes.test=4"]


def test_demo_leaves_a_complete_folder(small, tmp_path):
    run = tmp_path / "run"
    demo(run, small, console=QUIET)
    for name in ("results.csv", "metrics.json", "predictions.json", "best.pt", "config.yaml"):
        assert (run / name).stat().st_size > 0
    assert len(list((run / "pictures").glob("*.png"))) == 4  # every test image
    for name in ("examples.png", "curves.png", "ap_per_hoi.png"):
        with Image.open(run / name) as picture:
            assert min(picture.size) > 300


def test_demo_goes_on_and_does_not_train_twice(small, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_evaluate", lambda *_: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            demo(run, small, console=QUIET)
    assert load_checkpoint(run / LAST)["progress"]["epoch"] == 1
    result = demo(run, small, console=QUIET)
    weights = (run / LAST).read_bytes()
    again = demo(run, small, console=QUIET)
    assert (run / LAST).read_bytes() == weights
    assert again.to_dict() == result.to_dict()
    with pytest.raises(UserError, match="train.lr: 0.001 there, 0.5 asked for"):
        demo(run, [*small, "train.lr=0.5"], console=QUIET)
    with pytest.raises(UserError, match=r"scenes.seed: 0 in .*dataset\.json, 1 asked for"):
        demo(run, [*small, "scenes.seed=1"], console=QUIET)


@pytest.mark.slow
def test_short_demo_learns(tmp_path):
    report = demo(tmp_path / "run", [*SHORT, f"data.root={tmp_path / 'scenes'}"], console=QUIET)
    assert report.result.mean_ap() > FLOOR

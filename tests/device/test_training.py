"""Training on a GPU: the network's passes as CUDA graphs."""

import csv

import pytest
import torch
from rich.console import Console

from ggnet.config import load_config
from ggnet.engine.execution import capture_training
from ggnet.engine.trainer import RESULTS, train
from ggnet.models import build_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_capturing_leaves_no_trace():
    config = load_config(None, ["model.width=16"])
    model = build_model(config.model, 80, 117).cuda().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture_training(model, torch.rand(2, 3, 64, 64, device="cuda"), torch.bfloat16)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_captured_training_equals_plain_training(quick, tmp_path, precision):
    settings = [*quick, "train.device=cuda", f"train.precision={precision}"]
    losses = []
    for execution in ("eager", "capture"):
        folder = tmp_path / execution
        config = load_config(None, [*settings, f"train.execution={execution}"])
        train(config, folder, console=Console(quiet=True))
        with open(folder / RESULTS, newline="") as file:
            losses.append([float(row["total"]) for row in csv.DictReader(file)])
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)

"""train.execution: the network compiled or captured computes what it computes plainly."""

import csv

import pytest
import torch
from rich.console import Console

from ggnet.config import load_config
from ggnet.engine import execution
from ggnet.engine.checkpoint import LAST, load_checkpoint
from ggnet.engine.trainer import RESULTS, train
from ggnet.errors import UserError
from ggnet.models import Tiny

QUIET = Console(quiet=True)


def losses(settings, folder):
    """Of each epoch."""
    train(load_config(None, settings), folder, console=QUIET)
    with open(folder / RESULTS, newline="") as file:
        return [float(row["total"]) for row in csv.DictReader(file)]


def weights(config, folder):
    train(config, folder, console=QUIET)
    return load_checkpoint(folder / LAST)["model"]


@pytest.mark.slow  # the compiler takes a minute
def test_compiled_training_equals_plain_training(quick, tmp_path):
    settings = [*quick, "train.ema=0.5"]
    plain = losses(settings, tmp_path / "plain")
    compiled = losses([*settings, "train.execution=compile"], tmp_path / "compiled")
    assert plain[-1] < plain[0]
    # Adam turns the rounding of gradients near zero into steps, so weights differ in digits.
    assert compiled == pytest.approx(plain, rel=1e-3)


def test_only_training_passes_are_compiled(quick, tmp_path, monkeypatch):
    modes = []

    def compile_(forward):
        def compiled(*inputs):
            modes.append(forward.__self__.training)
            return forward(*inputs)

        return compiled

    monkeypatch.setattr(execution.torch, "compile", compile_)
    config = load_config(None, [*quick, "train.epochs=1", "train.execution=compile"])
    plain = load_config(None, [*quick, "train.epochs=1"])
    first, second = weights(config, tmp_path / "a"), weights(plain, tmp_path / "b")
    assert modes == [True] * 8  # backbone and heads, four steps; evaluated at the end
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_capture_without_a_gpu_is_refused(quick, tmp_path):
    config = load_config(None, [*quick, "train.execution=capture"])
    with pytest.raises(UserError, match="makes CUDA graphs, and the device is cpu"):
        train(config, tmp_path / "run", console=QUIET)


def test_capture_of_random_numbers_is_refused(quick, monkeypatch):
    monkeypatch.setattr(Tiny, "random", True)
    with pytest.raises(UserError, match="model.backbone=tiny may use them"):
        load_config(None, [*quick, "train.execution=capture"])


@pytest.mark.parametrize("setting", ["train.accumulate=2", "model.checkpointing=heads"])
def test_what_capture_cannot_do_is_refused(quick, setting):
    name, value = setting.split("=")
    with pytest.raises(UserError, match=f"{name} is {value}"):
        load_config(None, [*quick, "train.execution=capture", setting])

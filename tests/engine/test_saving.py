"""Checkpoints are written while training goes on, with what was true when they were asked for."""

import threading
from collections import OrderedDict

import pytest
import torch
from rich.console import Console
from torch import nn

from ggnet.config import load_config
from ggnet.engine import saving
from ggnet.engine.checkpoint import LAST, load_checkpoint, save_checkpoint
from ggnet.engine.saving import CheckpointWriter, on_host
from ggnet.engine.trainer import Trainer, train
from ggnet.errors import UserError

QUIET = Console(quiet=True)
EMPTY = dict.fromkeys(("config", "vocabulary", "ema", "optimizer", "progress", "rng"))


@pytest.fixture
def slow(monkeypatch):
    """Files are written once the event is set; the paths, in their order."""
    go, written = threading.Event(), []

    def save(path, state):
        assert go.wait(60)
        written.append(path.name)
        save_checkpoint(path, state)

    monkeypatch.setattr(saving, "save_checkpoint", save)
    return go, written


def test_what_changes_afterwards_is_not_written(tmp_path, slow):
    go, written = slow
    writer, weights = CheckpointWriter(), torch.zeros(3)
    writer.write(tmp_path / "a.pt", {**EMPTY, "model": {"w": weights}})
    weights += 1
    writer.write(tmp_path / "b.pt", {**EMPTY, "model": {"w": weights}})
    weights += 1
    assert not written
    writer.check()  # does not wait
    go.set()
    writer.write(tmp_path / "a.pt", {**EMPTY, "model": {"w": weights}})  # waits for the first
    assert written[0] == "a.pt"
    writer.wait()
    assert written == ["a.pt", "b.pt", "a.pt"]
    values = [load_checkpoint(tmp_path / name)["model"]["w"] for name in ("a.pt", "b.pt")]
    assert [value.tolist() for value in values] == [[2.0] * 3, [1.0] * 3]


def test_a_copy_keeps_what_torch_keeps_beside_the_tensors():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.to(memory_format=torch.channels_last)
    state = model.state_dict()
    copied = on_host({"model": state, "steps": [(torch.ones(1), 2)]})
    assert isinstance(copied["model"], OrderedDict)
    assert copied["model"]._metadata == state._metadata
    for name, value in state.items():
        mine = copied["model"][name]
        assert torch.equal(mine, value)
        assert mine.stride() == value.stride()
        assert mine.data_ptr() != value.data_ptr()
    assert copied["steps"] == [(torch.ones(1), 2)]


def test_a_failure_is_told_at_the_next_look(tmp_path):
    (tmp_path / "file").write_text("")
    writer = CheckpointWriter()
    writer.write(tmp_path / "file" / "last.pt", {**EMPTY, "model": {}})
    with pytest.raises(UserError, match=r"cannot write .*last\.pt"):
        writer.wait()
    writer.wait()  # it is told once


def test_training_goes_on_meanwhile_and_comes_to_the_same(quick, tmp_path, monkeypatch, slow):
    """The second checkpoint of the first epoch is written when the next step has been made."""
    go, written = slow
    settings = [*quick, "train.epochs=1", "train.ema=0.9"]
    go.set()
    train(load_config(None, settings), tmp_path / "plain", console=QUIET)
    original, steps = Trainer._step, []

    def step(self, *args):
        original(self, *args)
        steps.append(len(written))
        go.clear() if len(steps) == 1 else None
        go.set() if len(steps) == 4 else None

    monkeypatch.setattr(Trainer, "_step", step)
    written.clear()
    config = load_config(None, [*settings, "train.checkpoint_steps=2"])
    train(config, tmp_path / "run", console=QUIET)
    assert steps == [1] * 4  # the one of the start; that of the second step waited
    assert written.count(LAST) > 2
    mine, theirs = (load_checkpoint(tmp_path / name / LAST) for name in ("run", "plain"))
    for part in ("model", "ema"):
        for key, value in theirs[part].items():
            assert torch.equal(mine[part][key], value), key


def test_a_full_disk_ends_the_training_with_its_name(quick, tmp_path, monkeypatch):
    calls = []

    def save(path, state):
        calls.append(path)
        if len(calls) > 1:
            raise UserError(f"cannot write {path}: No space left on device")
        save_checkpoint(path, state)

    monkeypatch.setattr(saving, "save_checkpoint", save)
    config = load_config(None, [*quick, "train.checkpoint_steps=1"])
    with pytest.raises(UserError, match="No space left"):
        train(config, tmp_path / "run", console=QUIET)
    assert load_checkpoint(tmp_path / "run" / LAST)["progress"]["step"] == 0

"""Checkpoints survive what can happen to files, and say what is wrong with the others."""

import argparse
import math
import os
import random
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ggnet.config import Config, load_config
from ggnet.engine.checkpoint import (
    BEST,
    FORMAT,
    LAST,
    Checkpoint,
    SaveSchedule,
    check_same_config,
    find_checkpoint,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from ggnet.errors import UserError


def state(value: float = 1.0, size: int = 10) -> dict:
    return {
        "config": Config().model_dump(mode="json"),
        "vocabulary": {},
        "model": {"weight": torch.full((size,), value)},
        "ema": None,
        "optimizer": None,
        "progress": {"epoch": 1},
        "rng": rng_state(),
    }


@pytest.fixture
def path(tmp_path):
    save_checkpoint(tmp_path / LAST, state())
    return tmp_path / LAST


def test_names_of_earlier_versions(tmp_path):
    old = {
        "backbone.fuse.project.0.0.points.weight": torch.ones(1),
        "backbone.upsample.6.points.bias": torch.ones(1),
        "heads.0.verbs.points.0.weight": torch.ones(1),
    }
    save_checkpoint(tmp_path / LAST, state() | {"model": old, "ema": dict(old)})
    found = load_checkpoint(tmp_path / LAST)
    for weights in (found["model"], found["ema"]):
        assert list(weights) == [
            "backbone.fuse.project.0.0.conv_offset.weight",
            "backbone.upsample.6.conv_offset.bias",
            "heads.0.verbs.points.0.weight",
        ]


def test_round_trip_restores_the_random_numbers(path):
    set_rng_state(load_checkpoint(path)["rng"])
    first = torch.rand(3)
    torch.rand(100)
    set_rng_state(load_checkpoint(path)["rng"])
    assert torch.equal(torch.rand(3), first)


def test_averaged_weights_are_used_where_there_are_some(path):
    for averaged in (None, {"weight": torch.zeros(10)}):
        values = state() | {"ema": averaged}
        weights = Checkpoint(path, values, Config(), None).weights
        assert weights is (averaged or values["model"])


def test_full_disk_leaves_the_old_checkpoint(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # a file system's limit, in effect
    try:
        with pytest.raises(UserError, match=f"cannot write {path}: File too large"):
            save_checkpoint(path, state(2.0, size=1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(path)["model"]["weight"].tolist() == [1.0] * 10
    assert os.listdir(path.parent) == [LAST]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission(path):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot write .*Permission denied"):
            save_checkpoint(path, state(2.0))
    finally:
        path.parent.chmod(0o700)


def test_folder_below_a_file(path):
    with pytest.raises(UserError, match="cannot write .*Not a directory"):
        save_checkpoint(path / "run" / LAST, state())


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04broken", "truncated"],
    ids=["empty", "text", "zip", "truncated"],
)
def test_corrupt_file_is_named(path, content):
    path.write_bytes(path.read_bytes()[:1500] if content == "truncated" else content)
    with pytest.raises(UserError, match=f"{path} cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_foreign_and_newer_files_are_named(path):
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="not a checkpoint of ggnet's trainer"):
        load_checkpoint(path)
    torch.save({"format": FORMAT + 1, **state()}, path)
    with pytest.raises(UserError, match=f"format {FORMAT + 1}.*Upgrade ggnet"):
        load_checkpoint(path)


class Malicious:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_code_in_a_file_is_not_run(path):
    torch.save({"format": FORMAT, **state(), "extra": Malicious()}, path)
    with pytest.raises(UserError, match="holds a posix.system, and to load that would run code"):
        load_checkpoint(path)


def test_run_folder_means_its_best_checkpoint(path):
    assert find_checkpoint(path.parent) == path  # there is no other
    save_checkpoint(path.with_name(BEST), state())
    assert find_checkpoint(path.parent).name == BEST
    assert find_checkpoint(path.parent, prefer=LAST).name == LAST
    assert find_checkpoint(path) == path


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(UserError, match="no run folder or checkpoint at nowhere"):
        find_checkpoint("nowhere")
    with pytest.raises(UserError, match="holds neither best.pt nor last.pt"):
        find_checkpoint(tmp_path)


def test_other_configuration_names_every_key():
    wanted = load_config(None, ["train.lr=0.5", "model.width=48", "data.workers=7"])
    with pytest.raises(UserError) as error:
        check_same_config(Config(), wanted, Path("last.pt"), allowed={"data.workers"})
    assert "  train.lr: 0.00015 there, 0.5 asked for" in str(error.value)
    assert "  model.width: 32 there, 48 asked for" in str(error.value)
    assert "data.workers" not in str(error.value)
    check_same_config(Config(), wanted, Path("last.pt"), allowed={"data", "model", "train"})


def test_checkpoints_are_due_by_time_or_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ggnet.engine.checkpoint.time", SimpleNamespace(monotonic=lambda: now[0]))
    by_time, by_steps, never = (
        SaveSchedule(2, None),
        SaveSchedule(None, 3),
        SaveSchedule(None, None),
    )
    for step in range(1, 8):
        now[0] += 50
        due = []
        for schedule in (by_time, by_steps, never):
            schedule.count()
            due.append(schedule.due())
            if due[-1]:
                schedule.restart()
        assert due == [step in (3, 6), step in (3, 6), False]  # 150 seconds are the first above 120


def test_a_changed_bit_is_noticed(path):
    """Wherever it is: the file is refused, or holds what it held (not all of a zip is content)."""
    good, rng = path.read_bytes(), random.Random(0)
    before, refused = load_checkpoint(path), 0
    weight = good.index(before["model"]["weight"].numpy().tobytes())
    path.write_bytes(good[:weight] + bytes([good[weight] ^ 1]) + good[weight + 1 :])
    with pytest.raises(UserError, match="the checksum of .* is wrong"):
        load_checkpoint(path)
    for at in (rng.randrange(len(good)) for _ in range(60)):
        content = bytearray(good)
        content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            after = load_checkpoint(path)
        except UserError:
            refused += 1
            continue
        assert torch.equal(after["model"]["weight"], before["model"]["weight"])
        assert torch.equal(after["rng"]["torch"], before["rng"]["torch"])
    assert refused > 30


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["model", "ema"])
def test_weights_that_are_not_finite_are_refused(tmp_path, value, which):
    save_checkpoint(tmp_path / LAST, state() | {which: {"weight": torch.tensor([1.0, value])}})
    with pytest.raises(UserError, match="not finite, the first: weight"):
        load_checkpoint(tmp_path / LAST)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=1), "argparse.Namespace"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
def test_a_class_that_is_refused_is_named(tmp_path, value, name):
    torch.save({"model": {"weight": torch.ones(1)}, "args": value}, tmp_path / "a.pth")
    with pytest.raises(
        UserError, match=f"holds a {name}, .* If you trust it, save the tensors alone"
    ):
        load_checkpoint(tmp_path / "a.pth")

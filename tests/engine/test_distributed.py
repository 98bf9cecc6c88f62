"""Two processes compute what one computes from both of their batches."""

import csv
import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ggnet.config import load_config
from ggnet.data.scenes import generate
from ggnet.engine.checkpoint import LAST, load_checkpoint
from ggnet.engine.distributed import Worker
from ggnet.engine.evaluation import PREDICTIONS
from ggnet.engine.trainer import RESULTS, train
from ggnet.errors import UserError
from ggnet.models import build_model

TIMINGS = {"images_per_second", "data_wait", "seconds"}


# The command line, in which the fourth step ends the process.
STOPPED = """
import os, sys
from ggnet.cli import main
from ggnet.engine.trainer import Trainer

original, calls = Trainer._step, 0

def step(self, *args):
    global calls
    calls += 1
    if calls == 4:
        self._writer.wait()
        os._exit(3)
    return original(self, *args)

Trainer._step = step
raise SystemExit(main(sys.argv[1:]))
"""


ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # torchrun's choice for several processes of a machine


def torchrun(*arguments, script=None):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    what = ["-m", "ggnet"] if script is None else ["--no-python", sys.executable, "-c", script]
    return subprocess.run(
        [*command, *what, *map(str, arguments)],
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        timeout=300,
    )


def two_launchers(*arguments):
    """As on two machines, a process on each, which meet at an address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=test"]
    command = [*launcher, *meeting, "-m", "ggnet", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=os.environ | ONE_THREAD, **pipes) for _ in range(2)]
    return [(*process.communicate(timeout=300), process.returncode) for process in processes]


def first_row(run):
    with open(run / RESULTS, newline="") as file:
        row = next(csv.DictReader(file))
    # Metrics depend on the running statistics of normalization, which are each process's own.
    return {k: v for k, v in row.items() if k not in TIMINGS and not k.startswith("mAP")}


def test_two_processes_equal_one_that_accumulates(quick, tmp_path):
    """One step: each process has half the images, one process has both halves in turn."""
    scenes = tmp_path / "scenes"
    generate(scenes, train=4, test=5, workers=1)
    settings = [*quick, f"data.root={scenes}", "train.epochs=1", "train.batch_size=2"]
    one, two = tmp_path / "one", tmp_path / "two"
    config = load_config(None, [*settings, "train.accumulate=2"])
    train(config, one, console=Console(quiet=True))
    finished = torchrun("train", "--out", two, *settings)
    assert finished.returncode == 0, finished.stderr

    assert first_row(two) == first_row(one)
    mine, theirs = (load_checkpoint(run / LAST)["optimizer"]["state"] for run in (two, one))
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():  # after one step Adam's first moment is the gradient / 10
        torch.testing.assert_close(mine[key]["exp_avg"], value["exp_avg"], rtol=1e-5, atol=1e-7)
    assert any(value["exp_avg"].abs().max() > 0.01 for value in theirs.values())

    # The shards of the test images come together again, and only one process has spoken.
    images = json.loads((two / PREDICTIONS).read_text())["images"]
    expected = json.loads((one / PREDICTIONS).read_text())["images"]
    assert [image["image_id"] for image in images] == [image["image_id"] for image in expected]
    assert finished.stdout.count("run folder") == 1


@pytest.mark.slow
def test_two_processes_resumed_within_an_epoch(quick, tmp_path):
    """The losses so far are those of both; they count once."""
    settings = [*quick, "train.epochs=2", "train.batch_size=2", "train.checkpoint_steps=3"]
    whole, part = tmp_path / "whole", tmp_path / "part"
    finished = torchrun("train", "--out", whole, *settings)
    assert finished.returncode == 0, finished.stderr
    stopped = torchrun("train", "--out", part, *settings, script=STOPPED)
    assert stopped.returncode != 0
    progress = load_checkpoint(part / LAST)["progress"]
    assert (progress["epoch"], progress["step"]) == (0, 3)  # of 4
    resumed = torchrun("train", "--resume", part)
    assert resumed.returncode == 0, resumed.stderr
    with open(whole / RESULTS) as one, open(part / RESULTS) as other:
        for a, b in zip(csv.DictReader(one), csv.DictReader(other), strict=True):
            assert {k: v for k, v in a.items() if k not in TIMINGS} == {
                k: v for k, v in b.items() if k not in TIMINGS
            }
    mine, theirs = (load_checkpoint(run / LAST)["model"] for run in (part, whole))
    for key, value in theirs.items():
        assert torch.equal(mine[key], value), key


@pytest.mark.slow
def test_other_numbers_of_processes_go_on(quick, tmp_path):
    """One process with 4 images, then two with 2 each: the same global batch."""
    settings = [*quick, "train.epochs=2", "train.checkpoint_steps=3"]
    run = tmp_path / "run"
    command = [sys.executable, "-c", STOPPED, "train", "--out", str(run), *settings]
    assert subprocess.run(command, capture_output=True).returncode == 3
    before = load_checkpoint(run / LAST)["progress"]
    assert (before["step"], before["world_size"]) == (3, 1)
    refused = torchrun("train", "--resume", run)
    assert refused.returncode != 0
    assert "Resume with train.batch_size=2 or as many processes" in refused.stderr
    resumed = torchrun("train", "--resume", run, "train.batch_size=2")
    assert resumed.returncode == 0, resumed.stderr
    assert load_checkpoint(run / LAST)["progress"]["world_size"] == 2
    assert float(first_row(run)["total"]) == pytest.approx(
        before["sums"]["total"] / 3, rel=0.5
    )  # a mean over steps and processes, whoever made them


@pytest.mark.slow
def test_two_machines_equal_one(quick, tmp_path):
    settings = [*quick, "train.epochs=1", "train.batch_size=2"]
    finished = torchrun("train", "--out", tmp_path / "one", *settings)
    assert finished.returncode == 0, finished.stderr
    launched = two_launchers("train", "--out", tmp_path / "two", *settings)
    assert [status for *_, status in launched] == [0, 0], launched
    assert sum(output.count("run folder") for output, *_ in launched) == 1
    mine, theirs = (load_checkpoint(tmp_path / name / LAST)["model"] for name in ("two", "one"))
    for key, value in theirs.items():
        assert torch.equal(mine[key], value), key


def test_batch_statistics_over_processes():
    model = build_model(load_config(None, ["model.width=16"]).model, 3, 2)
    images = torch.rand(1, 3, 64, 64)
    expected = model.eval()(images)["interaction"]
    names = list(model.state_dict())
    alone, two = Worker(0, 1, torch.device("cpu")), Worker(0, 2, torch.device("cuda"))
    assert alone.share_statistics(model) is model
    with pytest.raises(UserError, match=r"sync_batchnorm=true needs GPUs, and the device is cpu"):
        Worker(0, 2, torch.device("cpu")).share_statistics(model)
    shared = two.share_statistics(model)
    norms = [part for part in shared.modules() if isinstance(part, _BatchNorm)]
    assert norms
    assert all(isinstance(part, nn.SyncBatchNorm) for part in norms)
    assert list(shared.state_dict()) == names
    assert torch.equal(shared(images)["interaction"], expected)

"""What happens to runs: signals to all, deleted folders, two processes, kills before the plots."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
from rich.console import Console

from ggnet.cli import main
from ggnet.config import load_config
from ggnet.engine.checkpoint import LAST, load_checkpoint
from ggnet.engine.evaluation import PREDICTIONS
from ggnet.engine.lock import LOCK, RunFolder, hold_run
from ggnet.engine.plots import CURVES, HOI_AP
from ggnet.engine.signals import INTERRUPTED
from ggnet.engine.trainer import CONFIG, RESULTS, Trainer, train
from ggnet.errors import UserError
from ggnet.eval.report import METRICS

QUIET = Console(quiet=True)
# The command line, which in its third step sends a signal to all processes of the session.
SIGNALLED = """
import os, subprocess, sys
from ggnet.engine import trainer
from ggnet.cli import main
step, calls = trainer.Trainer._step, []
def signalled(*args):
    calls.append(1)
    if len(calls) == 3 and os.environ.get("RANK", "0") == "0":
        # By a process of another number: a loader process obeys its parent alone.
        subprocess.run(["kill", "-TERM", "--", f"-{os.getpgid(0)}"])
    return step(*args)
trainer.Trainer._step = signalled
raise SystemExit(main(sys.argv[1:]))
"""
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def session(command, **more):
    """Run a command as the leader of a process group; status, stdout, stderr."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    done = subprocess.run(
        [str(part) for part in command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_terminating_all_processes_saves(quick, tmp_path):
    """As Slurm, systemd and `timeout` do: the loader's processes get it too."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", SIGNALLED, "train", "--out", run, *quick, "data.workers=2"]
    status, output, errors = session(command)
    assert status == INTERRUPTED, errors
    assert "Traceback" not in errors
    assert f"Go on with: ggnet train --resume {run}" in output
    assert load_checkpoint(run / LAST)["progress"]["step"] == 3
    assert not (run / LOCK).exists()


@pytest.mark.slow
def test_terminating_torchrun_saves(quick, tmp_path):
    """torchrun hands the signal on to two processes, each with a worker; both stop at one step."""
    run, script = tmp_path / "run", tmp_path / "script.py"
    # To torchrun's group; the processes that it starts have groups of their own.
    script.write_text(SIGNALLED.replace("os.getpgid(0)", "os.getpgid(os.getppid())"))
    more = ["data.workers=1", "train.batch_size=2", "train.epochs=40"]
    _, output, errors = session([*TORCHRUN, script, "train", "--out", run, *quick, *more])
    assert output.count("Go on with: ggnet train --resume") == 1, errors
    assert "DataLoader" not in errors
    assert load_checkpoint(run / LAST)["progress"]["world_size"] == 2
    epoch, step = (load_checkpoint(run / LAST)["progress"][key] for key in ("epoch", "step"))
    assert epoch < 39
    assert epoch + step > 0


def test_an_error_is_said_once_not_once_a_process(quick, tmp_path):
    wrong = [*TORCHRUN, "-m", "ggnet", "train", "--out", tmp_path / "run", *quick, "data.root=none"]
    _, _, errors = session(wrong)
    assert errors.count("none is not a dataset") == 1
    assert errors.count("error: ") == 1


@pytest.mark.slow
def test_an_error_of_one_process_is_said(quick, scenes, tmp_path):
    """And the others end without a word of their own that would hide it."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    image = sorted((root / "images" / "train").iterdir())[3]
    image.write_bytes(b"broken")
    more = [f"data.root={root}", "train.batch_size=2", "train.eval_every=1"]
    _, _, errors = session(
        [*TORCHRUN, "-m", "ggnet", "train", "--out", tmp_path / "run", *quick, *more]
    )
    assert errors.count(f"cannot read {image}") == 1
    assert errors.count("Traceback") == 1  # torchrun's own


def test_two_processes_in_one_folder(quick, tmp_path):
    """The second is refused with the name of the first, and may go on once that was killed."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    who = f"process {holder.pid} on {socket.gethostname()} is training in {tmp_path}"
    with pytest.raises(UserError, match=who):
        train(load_config(None, quick), tmp_path, console=QUIET)
    assert not (tmp_path / LAST).exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()  # nobody could remove it
    with hold_run(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


HOLDER = """
import sys, time
from ggnet.engine.lock import hold_run
with hold_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


def test_resuming_waits_for_nobody_else(quick, tmp_path, capsys):
    """A checkpoint that another process is about to replace is not even read."""
    run = tmp_path / "run"
    train(load_config(None, [*quick, "train.epochs=1"]), run, console=QUIET)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True
    )
    holder.stdout.readline()
    assert main(["train", "--resume", str(run), "train.epochs=2"]) == 2
    assert f"process {holder.pid} on" in capsys.readouterr().err
    holder.kill()
    holder.wait()


def test_a_lock_whose_file_was_removed_is_another_lock(tmp_path):
    """Between opening the file and locking it, its owner may have removed it."""
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.open()
    (tmp_path / LOCK).unlink()
    assert not first.is_held()
    second.open()
    first.close()
    assert second.is_held()
    second.close()
    assert not list(tmp_path.iterdir())


def test_a_run_folder_deleted_during_training(quick, tmp_path, monkeypatch, caplog):
    run, epochs = tmp_path / "run", []
    original = Trainer._train_epoch

    def deleting(self, *args):
        epochs.append(1)
        if len(epochs) == 2:
            self._writer.wait()  # rmtree stops at a folder that is written into
            shutil.rmtree(run)
        return original(self, *args)

    monkeypatch.setattr(Trainer, "_train_epoch", deleting)
    with caplog.at_level(logging.WARNING, "ggnet"):
        train(load_config(None, quick), run, console=QUIET)
    assert caplog.text.count(f"the run folder {run} was deleted during the training") == 1
    assert {LAST, CONFIG, RESULTS, METRICS} <= {path.name for path in run.iterdir()}
    assert len((run / RESULTS).read_text().splitlines()) == 4


def test_resume_finishes_what_a_kill_left_out(quick, tmp_path, capsys):
    """Killed between the last checkpoint and the plots: they and the table come with --resume."""
    run = tmp_path / "run"
    train(load_config(None, [*quick, "train.epochs=1"]), run, console=QUIET)
    metrics = (run / METRICS).read_text()
    assert not (run / CURVES).exists()
    assert main(["train", "--resume", str(run)]) == 0
    assert "HICO mAP" in capsys.readouterr().out
    assert (run / CURVES).exists()
    assert (run / HOI_AP).exists()
    assert (run / METRICS).read_text() == metrics
    assert main(["train", "--resume", str(run)]) == 2
    assert "is finished: all 1 epochs are done" in capsys.readouterr().err
    os.utime(run / RESULTS, ns=(time.time_ns(), time.time_ns()))  # of a longer training
    (run / PREDICTIONS).unlink()
    assert main(["train", "--resume", str(run)]) == 2
    assert PREDICTIONS in capsys.readouterr().err


def test_a_resumed_training_frees_the_checkpoint(quick, tmp_path, monkeypatch):
    """Three times the network's size, in each process."""
    run = tmp_path / "run"
    train(load_config(None, [*quick, "train.epochs=1"]), run, console=QUIET)
    state = load_checkpoint(run / LAST)
    config = load_config(None, [*quick, "train.epochs=2"])
    tensors = [weakref.ref(value) for value in state["model"].values()]
    alive = []
    original = Trainer.fit
    monkeypatch.setattr(
        Trainer,
        "fit",
        lambda self: (alive.extend(ref() is not None for ref in tensors), original(self))[1],
    )
    train(config, run, resume=state, console=QUIET)
    assert alive
    assert not any(alive)


def test_tensorboard_takes_no_name_that_is_not_utf8(quick, tmp_path):
    config = load_config(None, [*quick, "train.loggers=[tensorboard]"])
    with pytest.raises(UserError, match="TensorBoard cannot write to .*train.loggers=\\[\\]"):
        train(config, tmp_path / os.fsdecode(b"\xff"), console=QUIET)


@pytest.mark.parametrize("name", [b"\xff\xfe run", b"r" * 250], ids=["not UTF-8", "250 bytes"])
def test_odd_names_of_folders_and_images(quick, scenes, tmp_path, name, capsys):
    """They go through training, plots and evaluation, and through what is printed."""
    root, run = tmp_path / os.fsdecode(name), tmp_path / "runs" / os.fsdecode(name)
    shutil.copytree(scenes, root)
    for split in ("train", "test"):
        entries = json.loads((root / f"{split}.json").read_text())
        old = root / "images" / split / entries[0]["file_name"]
        entries[0]["file_name"] = os.fsdecode(name[:246]) + ".png"
        old.rename(old.parent / entries[0]["file_name"])
        (root / f"{split}.json").write_text(json.dumps(entries))
    command = ["train", *quick, "train.epochs=1", "--out", str(run)]
    command += [f"data.root={json.dumps(str(root))}"]
    assert main(command) == 0, capsys.readouterr()
    assert main(["eval", str(run)]) == 0, capsys.readouterr()
    assert main(["data", "verify", str(root)]) == 0, capsys.readouterr()
    assert any(
        Path(image["file_name"]).stem == os.fsdecode(name[:246])
        for image in json.loads((run / PREDICTIONS).read_text())["images"]
    )

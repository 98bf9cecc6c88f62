"""A run can be stopped in any way and goes on as if nothing had happened."""

import csv
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tolerances import AUTOCAST_LOSS

from ggnet.config import load_config, override
from ggnet.data.annotations import load_dataset
from ggnet.engine.checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from ggnet.engine.distributed import Worker, join_workers
from ggnet.engine.loggers import Loggers
from ggnet.engine.logging import LINE_SECONDS, TrainingDisplay
from ggnet.engine.runs import resume_run
from ggnet.engine.signals import INTERRUPTED, Interrupted
from ggnet.engine.step import StepReport
from ggnet.engine.trainer import CONFIG, RESULTS, Trainer, train
from ggnet.errors import UserError
from ggnet.eval.report import METRICS
from ggnet.nn import GGNetLoss

QUIET = Console(quiet=True)
CUDA = torch.cuda.is_available()
TIMINGS = {"images_per_second", "data_wait", "seconds"}
# Runs the command line after a signal was planted in the n-th step or the n-th save.
PLANTED = """
import os, signal, sys
from ggnet.engine import checkpoint, trainer
from ggnet.cli import main

where, n, number, *arguments = sys.argv[1:]
owner, name = {"step": (trainer.Trainer, "_step"), "save": (checkpoint._Writer, "write")}[where]
original, calls = getattr(owner, name), 0

def planted(*args):
    global calls
    calls += 1
    if calls == int(n):
        os.kill(os.getpid(), int(number))
    return original(*args)

setattr(owner, name, planted)
raise SystemExit(main(arguments))
"""


@pytest.fixture(scope="module")
def settings(quick):
    return [*quick, "train.ema=0.9", "train.clip=1", "train.eval_every=2"]


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """The folder of an uninterrupted run."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(load_config(None, settings), run, console=QUIET)
    return run


def planted(where, n, number, run, settings, *more):
    """The exit status of a training process that gets a signal."""
    command = [sys.executable, "-c", PLANTED, where, str(n), str(int(number)), "train"]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    finished = subprocess.run(
        [*command, "--out", run, *settings, *more], env=environment, capture_output=True, text=True
    )
    return finished.returncode, finished.stdout, finished.stderr


def resume(run, overrides=()):
    folder, config, state = resume_run(run, None, list(overrides))
    return train(config, folder, resume=state, console=QUIET)


def rows(run):
    return [{k: cell for k, cell in row.items() if k not in TIMINGS} for row in table(run)]


def table(run):
    with open(run / RESULTS, newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(run, expected):
    for name in (LAST, BEST):
        mine, theirs = load_checkpoint(run / name), load_checkpoint(expected / name)
        for part in ("model", "ema"):
            assert mine[part].keys() == theirs[part].keys()
            for key, value in theirs[part].items():
                assert torch.equal(mine[part][key], value), (name, part, key)
    assert rows(run) == rows(expected)
    assert (run / METRICS).read_text() == (expected / METRICS).read_text()


def test_it_learns(settings, tmp_path):
    """The same images in every epoch: augmentation differs by more than an epoch here gains."""
    config = load_config(None, [*settings, "data.augment=false"])
    train(config, tmp_path / "run", console=QUIET)
    totals = [float(row["total"]) for row in rows(tmp_path / "run")]
    assert totals[0] > totals[1] > totals[2]


def test_results_have_a_row_an_epoch_and_metrics_where_asked(finished):
    assert [row["epoch"] for row in rows(finished)] == ["1", "2", "3"]
    assert [bool(row["mAP"]) for row in rows(finished)] == [False, True, True]


def test_timings_of_an_epoch(finished):
    config = load_config(finished / CONFIG)
    images = len(load_dataset(config.data.root).load("train"))
    images -= images % config.train.batch_size
    for row in table(finished):
        assert float(row["seconds"]) > 0
        assert 0 < float(row["data_wait"]) < 1
        seen = float(row["images_per_second"]) * float(row["seconds"])
        assert seen == pytest.approx(images, rel=1e-3)  # figures in a table


def test_within_an_epoch_it_saves_when_it_is_due(quick, tmp_path, monkeypatch):
    steps, save = [], Trainer._save

    def noted(trainer, *name):
        steps.append(trainer.global_step)
        save(trainer, *name)

    monkeypatch.setattr(Trainer, "_save", noted)
    config = load_config(None, [*quick, "train.eval_every=null", "train.checkpoint_steps=3"])
    train(config, tmp_path / "run", console=QUIET)
    assert sorted(set(steps)) == [0, 3, 4, 7, 8, 11, 12]  # counted anew after each


def test_killed_in_a_step(finished, settings, tmp_path):
    more = ["train.checkpoint_steps=2", "data.workers=1"]
    status, _, _ = planted("step", 8, signal.SIGKILL, tmp_path / "run", settings, *more)
    assert status == -signal.SIGKILL
    position = load_checkpoint(tmp_path / "run" / LAST)["progress"]
    assert (position["epoch"], position["step"]) == (1, 2)  # the 8th step is epoch 1's 4th
    assert len(rows(tmp_path / "run")) == 1
    resume(tmp_path / "run")
    assert_same_run(tmp_path / "run", finished)


def test_killed_in_a_save(finished, settings, tmp_path):
    status, _, _ = planted(
        "save", 2000, signal.SIGKILL, tmp_path / "run", settings, "train.checkpoint_steps=1"
    )
    assert status == -signal.SIGKILL
    assert list((tmp_path / "run").glob(".last.pt.*"))  # what the broken write left
    resume(tmp_path / "run", ["train.checkpoint_steps=null"])
    assert not list((tmp_path / "run").glob(".*"))
    assert_same_run(tmp_path / "run", finished)


def test_interrupt_saves_and_says_how_to_go_on(finished, settings, tmp_path):
    run = tmp_path / "run"
    status, output, errors = planted("step", 3, signal.SIGINT, run, settings, "data.workers=1")
    assert status == INTERRUPTED
    assert "Stopping after this step" in errors
    assert "Traceback" not in errors
    assert f"Go on with: ggnet train --resume {run}" in output
    position = load_checkpoint(run / LAST)["progress"]
    assert (position["epoch"], position["step"]) == (0, 3)
    resume(run)
    assert_same_run(run, finished)


@pytest.mark.parametrize("when", ["_headline", "_train_epoch", "_evaluate"])
def test_terminate_between_steps(finished, settings, tmp_path, monkeypatch, when):
    """SIGTERM when there is no more than the first checkpoint, just before the second epoch, or
    just before its evaluation."""
    original, calls = getattr(Trainer, when), []

    def planted(self, *args):
        calls.append(when)
        if len(calls) == (2 if when == "_train_epoch" else 1):
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, when, planted)
        with pytest.raises(Interrupted):
            train(load_config(None, settings), run, console=QUIET)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resume(run)
    assert_same_run(run, finished)


def test_second_interrupt_leaves_at_once():
    script = """
import signal, time
from ggnet.engine.signals import StopRequest
with StopRequest() as stop:
    signal.raise_signal(signal.SIGINT)
    assert stop.requested
    signal.raise_signal(signal.SIGINT)
    print("still here")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == INTERRUPTED
    assert "still here" not in result.stdout


def with_another_process(_worker, mine):
    """What both say; the other one's loss is finite."""
    return [mine, (False, ["other.png"], [])]


@pytest.mark.parametrize(
    "device",
    ["cpu", "late", pytest.param("cuda", marks=pytest.mark.skipif(not CUDA, reason="no GPU"))],
)
def test_loss_that_is_not_finite_names_the_images(settings, tmp_path, monkeypatch, device):
    original, seen, weights = GGNetLoss.forward, [], {}

    def poisoned(self, *inputs):
        total, terms = original(self, *inputs)
        seen.append([meta.file_name for meta in inputs[1].meta])
        if len(seen) == 3:
            terms["gaze1"] = terms["gaze1"] * float("nan")
            total = total * float("nan")
            weights.update({k: v.clone() for k, v in trainer.model.named_parameters()})
        return total, terms

    monkeypatch.setattr(GGNetLoss, "forward", poisoned)
    if device == "late":  # as on a GPU, the host reads a step's report two steps later
        monkeypatch.setattr(StepReport, "is_late", True)
    monkeypatch.setattr(Worker, "gather", with_another_process)
    on = "cpu" if device == "late" else device
    config = load_config(None, [*settings, f"train.device={on}"])
    with join_workers(on) as worker:
        trainer = Trainer(config, tmp_path / "run", worker, QUIET)
        with pytest.raises(UserError) as error:
            trainer.fit()
    assert len(seen) == (3 if device == "cpu" else 4)  # of four steps an epoch
    message = str(error.value)
    assert "gaze1 is nan" in message
    assert "epoch 1, step 3" in message
    assert ", ".join(seen[2]) in message
    assert "other.png" not in message
    assert not set(seen[1]) & set(re.findall(r"\w+\.png", message))
    for name, value in trainer.model.named_parameters():
        assert torch.equal(value, weights[name]), name


def test_a_late_wish_of_an_epochs_last_step_is_heard(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(StepReport, "is_late", True)
    with join_workers("cpu") as worker:
        trainer = Trainer(load_config(None, settings), tmp_path / "run", worker, QUIET)
        original = trainer._step

        def step(*arguments):
            if trainer.position.step + 1 == trainer.steps_per_epoch:
                signal.raise_signal(signal.SIGINT)
            original(*arguments)

        monkeypatch.setattr(trainer, "_step", step)
        with pytest.raises(Interrupted):
            trainer.fit()
    progress = load_checkpoint(tmp_path / "run" / LAST)["progress"]
    assert (progress["epoch"], progress["step"]) == (0, trainer.steps_per_epoch)


def test_what_is_shown_is_of_the_steps_since_the_last_time(settings, tmp_path, monkeypatch):
    original, totals, shown = GGNetLoss.forward, [], []

    def recorded(self, *inputs):
        total, terms = original(self, *inputs)
        totals.append(total.item())
        return total, terms

    def show(self, done, epoch, losses, figures):
        shown.append((done, epoch, losses["total"], float(figures[0].removesuffix(" images/s"))))

    monkeypatch.setattr(GGNetLoss, "forward", recorded)
    monkeypatch.setattr(TrainingDisplay, "due", lambda self: len(totals) in (1, 3, 4, 8))
    monkeypatch.setattr(TrainingDisplay, "show", show)
    config = load_config(None, [*settings, "train.epochs=2", "train.eval_every=2"])
    train(config, tmp_path / "run", console=QUIET)
    parts = [totals[:1], totals[1:3], totals[3:4], totals[4:8]]
    assert [row[:2] for row in shown] == [
        *[(done, "epoch 1/2") for done in (1, 3, 4)],
        (8, "epoch 2/2"),
    ]
    assert [row[2] for row in shown] == pytest.approx([sum(part) / len(part) for part in parts])
    # The last is of a whole epoch, and so is its speed.
    speed = float(table(tmp_path / "run")[1]["images_per_second"])
    assert shown[-1][3] == pytest.approx(speed, abs=0.51)  # shown as a whole number


def test_gradient_that_is_not_finite_is_not_applied(settings, tmp_path, monkeypatch):
    original = GGNetLoss.forward

    def exploding(self, outs, *inputs):
        outs[0]["size"].register_hook(lambda gradient: gradient * float("inf"))
        return original(self, outs, *inputs)

    monkeypatch.setattr(GGNetLoss, "forward", exploding)
    monkeypatch.setattr(Worker, "gather", with_another_process)
    said = "a gradient is not finite at epoch 1, step 1.*other.png"  # the images of all
    with pytest.raises(UserError, match=said):
        train(load_config(None, settings), tmp_path / "run", console=QUIET)
    assert load_checkpoint(tmp_path / "run" / LAST)["progress"]["epoch"] == 0


def test_new_run_does_not_overwrite_an_old_one(finished, settings):
    before = (finished / LAST).read_bytes()
    with pytest.raises(UserError, match=f"{finished} already holds a run.*--resume"):
        train(load_config(None, settings), finished, console=QUIET)
    assert (finished / LAST).read_bytes() == before


def test_what_cannot_be_resumed_is_explained(finished, settings, tmp_path):
    with pytest.raises(UserError, match="is finished: all 3 epochs are done"):
        resume(finished)
    with pytest.raises(UserError, match="train.lr: 0.001 there, 0.1 asked for"):
        resume(finished, ["train.lr=0.1"])
    config = load_config(None, settings)
    with pytest.raises(UserError, match="without optimizer state"):
        train(config, tmp_path, resume=load_checkpoint(finished / BEST), console=QUIET)
    state = load_checkpoint(finished / LAST)
    progress = state["progress"]
    state["progress"] = progress | {"dataset_size": 15}
    with pytest.raises(UserError, match="made with 15 training images, now there are 16"):
        train(config, tmp_path, resume=state, console=QUIET)
    state["progress"] = progress | {"world_size": 2}
    with pytest.raises(UserError, match="8 images a step; now there are 1 x 4.*train.batch_size=8"):
        train(config, tmp_path, resume=state, console=QUIET)
    with pytest.raises(UserError, match="4 images a step; now there are 1 x 2 x 1"):
        resume(unfinished(finished, tmp_path / "copy"), ["train.batch_size=2"])


def unfinished(finished, run):
    """A copy of the run, as it was at the start of its last epoch."""
    shutil.copytree(finished, run)
    state = load_checkpoint(run / LAST)
    save_checkpoint(run / LAST, state | {"progress": state["progress"] | {"epoch": 2}})
    return run


def test_other_micro_batches_go_on_with_the_same_images(finished, tmp_path, monkeypatch):
    """As other numbers of processes do: what a step sees is the same."""
    seen, original = {}, Trainer._backward

    def recorded(self, *args):
        losses, images = original(self, *args)
        seen.setdefault(self.run.name, []).append(sorted(images))
        return losses, images

    monkeypatch.setattr(Trainer, "_backward", recorded)
    for name, settings in (("same", []), ("half", ["train.batch_size=2", "train.accumulate=2"])):
        resume(unfinished(finished, tmp_path / name), settings)
    assert len(seen["same"]) == 4
    assert seen["half"] == seen["same"]


def test_more_epochs_for_a_finished_run(finished, settings, tmp_path):
    """With the step schedule, 2 + 1 epochs are 3."""
    run = tmp_path / "run"
    train(load_config(None, [*settings, "train.epochs=2"]), run, console=QUIET)
    resume(run, ["train.epochs=3"])
    assert_same_run(run, finished)


def test_a_run_of_the_version_before_goes_on(finished, settings, tmp_path, monkeypatch, caplog):
    """Its configuration as it was saved then; weights, optimizer and position are as today."""
    original, calls = Trainer._train_epoch, []

    def planted(self, *args):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", planted)
        with pytest.raises(Interrupted):
            train(load_config(None, settings), run, console=QUIET)
    state = load_checkpoint(run / LAST)
    del state["format"], state["environment"]
    config = state["config"]
    config["model"]["actpoints"] = config["model"].pop("points_per_step")
    config["eval"]["points"] = config["eval"].pop("recall_points")
    config["train"] |= {"init": "", "checkpoint_steps": 0}
    config["scenes"] = {"train": 2000, "test": 500, "size": 128, "seed": 0}
    save_checkpoint(run / LAST, state)
    with caplog.at_level("WARNING", "ggnet"):
        resume(run)
    assert "model.actpoints is now model.points_per_step" in caplog.text
    assert_same_run(run, finished)


def test_accumulation_makes_fewer_steps(quick, tmp_path):
    config = load_config(None, [*quick, "train.epochs=1", "train.accumulate=3"])
    train(config, tmp_path / "run", console=QUIET)
    assert rows(tmp_path / "run")[0]["step"] == "2"  # 4 batches: 3 + 1


def test_accumulation_resumed_within_an_epoch(quick, tmp_path):
    """8 batches, 3 a step: stopped after the second of an epoch's three steps."""
    settings = [*quick, "train.accumulate=3", "train.batch_size=2", "train.epochs=2"]
    settings += ["train.ema=0.9"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(load_config(None, settings), whole, console=QUIET)
    assert rows(whole)[-1]["step"] == "6"
    status, _, errors = planted("step", 5, signal.SIGINT, run, settings)
    assert status == INTERRUPTED, errors
    position = load_checkpoint(run / LAST)["progress"]
    assert (position["epoch"], position["step"]) == (1, 2)
    resume(run)
    assert_same_run(run, whole)


def test_a_step_is_the_mean_over_its_batches(quick, tmp_path):
    """The last step of an epoch has fewer batches, which count more each."""
    settings = [*quick, "train.epochs=1", "data.augment=false"]
    config = load_config(None, [*settings, "train.accumulate=3"])
    with join_workers("cpu") as worker:
        trainer = Trainer(config, tmp_path / "run", worker, QUIET)
        trainer.model.train()
        batches = list(trainer.loader)
        for count in (1, 3):
            before = {n: b.clone() for n, b in trainer.model.named_buffers()}
            trainer.optimizer.zero_grad()
            losses, images = trainer._backward(iter(batches), count)
            got = [p.grad.clone() for p in trainer.parameters]
            mean, totals = [torch.zeros_like(g) for g in got], []
            trainer.model.load_state_dict(before, strict=False)
            for batch in batches[:count]:
                total, _ = trainer.loss(trainer.model(batch.images), batch)
                totals.append(total.item())
                grads = torch.autograd.grad(total, trainer.parameters)
                mean = [m + g / count for m, g in zip(mean, grads, strict=True)]
            torch.testing.assert_close(got, mean, rtol=1e-4, atol=1e-6)
            assert losses.to_dict()["total"] == pytest.approx(sum(totals) / count, rel=1e-5)
            assert len(images) == sum(len(batch) for batch in batches[:count])


@pytest.mark.parametrize("clip", [None, 1e-3, 1e6])
def test_clipping_limits_the_norm_of_the_gradient(quick, tmp_path, clip):
    config = load_config(None, [*quick, f"train.clip={'null' if clip is None else clip}"])
    with join_workers("cpu") as worker:
        trainer = Trainer(config, tmp_path / "run", worker, QUIET)
        trainer.model.train()
        trainer._backward(iter(trainer.loader), 1)
        before = [p.grad.clone() for p in trainer.parameters]
        norm = torch.cat([g.flatten() for g in before]).double().norm().item()
        assert trainer._clip().item() == pytest.approx(norm, rel=1e-4)
        assert 1e-3 < norm < 1e6
        factor = clip / norm if clip == 1e-3 else 1.0
        for parameter, gradient in zip(trainer.parameters, before, strict=True):
            torch.testing.assert_close(parameter.grad, gradient * factor, rtol=1e-3, atol=0)


def test_bf16_is_close_to_float32(quick, tmp_path):
    """The losses of the very first steps; later ones drift apart."""
    losses = {}
    for precision in ("float32", "bf16"):
        run = tmp_path / precision
        config = load_config(None, [*quick, "train.epochs=1", f"train.precision={precision}"])
        train(config, run, console=QUIET)
        losses[precision] = float(rows(run)[0]["total"])
        assert load_checkpoint(run / LAST)["model"]["heads.0.size.0.weight"].dtype == torch.float32
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=AUTOCAST_LOSS)
    assert losses["bf16"] != losses["float32"]


def test_unusable_device_is_explained(quick, tmp_path):
    config = load_config(None, quick)
    with pytest.raises(UserError, match="train.device is 'tpu'; expected auto, cpu, cuda"):
        train(override(config, ["train.device=tpu"]), tmp_path, console=QUIET)
    if not CUDA:
        with pytest.raises(UserError, match="sees no GPU"):
            train(override(config, ["train.device=cuda"]), tmp_path, console=QUIET)


def test_tensorboard_of_a_resumed_run(settings, tmp_path, monkeypatch):
    """One point an epoch, though the interrupted run had logged beyond its checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    original = Loggers.add

    def dying(self, values, step):
        original(self, values, step)
        assert step < 8  # two epochs

    monkeypatch.setattr("ggnet.engine.logging.LINE_SECONDS", math.inf)  # no points within an epoch
    run = tmp_path / "run"
    config = load_config(None, [*settings, "train.loggers=[tensorboard]", "train.eval_every=1"])
    with monkeypatch.context() as patch:
        patch.setattr(Loggers, "add", dying)
        with pytest.raises(AssertionError):
            train(config, run, console=QUIET)
    resume(run)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for name in ("total", "mAP", "lr"):
        assert [event.step for event in events.Scalars(name)] == [4, 8, 12]


def test_progress_lines_without_a_terminal(quick, tmp_path, monkeypatch):
    """Losses, speed, data wait and remaining time, once in a while and not in every step."""
    ticks = itertools.count(0, LINE_SECONDS / 4)
    monkeypatch.setattr("ggnet.engine.logging.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with open(tmp_path / "log", "w") as file:
        train(load_config(None, quick), tmp_path / "run", console=Console(file=file, width=200))
    lines = Path(tmp_path / "log").read_text().splitlines()
    headline = r"tiny, \d\.\d\d M parameters, (?!1 x)[^;]+; 16 images of scenes, 3 epochs"
    assert re.match(headline, lines[0])
    progress = [line for line in lines if re.match(r"epoch \d+/3 ", line)]
    assert 1 <= len(progress) <= 11
    # Where data is waited for, the loader's slowest stage follows.
    pattern = r"total \S+ .*gaze2 \S+ .*\d+ images/s  data wait \d+ %(: .+)?  \d+:\d\d left"
    assert all(re.search(pattern, line) for line in progress)


def with_splits(scenes, root, **splits):
    """The bundled scenes with other splits: name -> the split that it is."""
    shutil.copytree(scenes, root)
    values = json.loads((root / "dataset.json").read_text())
    values["splits"] = {name: values["splits"][split] for name, split in splits.items()}
    (root / "dataset.json").write_text(json.dumps(values))
    return [f"data.root={root}"]


def test_the_best_epoch_is_chosen_by_val_where_there_is_one(quick, scenes, tmp_path):
    more = with_splits(scenes, tmp_path / "scenes", train="train", test="test", val="train")
    config = load_config(None, [*quick, *more, "train.epochs=1"])
    console = Console(record=True, width=500, file=io.StringIO())
    report = train(config, tmp_path / "run", console=console)
    assert report.split == "val"
    assert len(report.records) == len(load_dataset(scenes).load("train"))
    assert json.loads((tmp_path / "run" / METRICS).read_text())["split"] == "val"
    assert "the best epoch is chosen by split val" in console.export_text()


def test_evaluating_without_a_split_to_evaluate_is_an_error(quick, scenes, tmp_path):
    more = with_splits(scenes, tmp_path / "scenes", train="train")
    config = load_config(None, [*quick, *more, "train.epochs=1"])
    assert train(config, tmp_path / "run", console=QUIET) is None
    config = override(config, ["train.eval_every=1"])
    with pytest.raises(UserError, match="no split to evaluate; expected val or test"):
        train(config, tmp_path / "other", console=QUIET)


def test_epochs_that_something_is_scheduled_by_stay(quick, tmp_path):
    """With beta_ramp another number of epochs would change what the finished ones have learned."""
    for name, more, allowed in (("plain", [], True), ("ramp", ["loss.beta_ramp=0.5"], False)):
        run = tmp_path / name
        train(load_config(None, [*quick, *more, "train.epochs=1"]), run, console=QUIET)
        if allowed:
            assert resume_run(run, None, ["train.epochs=2"])[1].train.epochs == 2
        else:
            with pytest.raises(UserError, match="train.epochs: 1 there, 2 asked for"):
                resume_run(run, None, ["train.epochs=2"])


def test_the_loss_is_told_what_share_of_the_training_is_done(quick, tmp_path, monkeypatch):
    original, seen = GGNetLoss.forward, []

    def recorded(self, outs, batch, progress):
        seen.append(progress)
        return original(self, outs, batch, progress)

    monkeypatch.setattr(GGNetLoss, "forward", recorded)
    train(load_config(None, [*quick, "train.epochs=2"]), tmp_path / "run", console=QUIET)
    assert seen == [step / 8 for step in range(8)]

"""Figures of a run in MLflow and Weights & Biases, as in results.csv."""

import csv
import io
import json
import logging
import math
import sys
import types

import pytest
from rich.console import Console

from ggnet.cli import main
from ggnet.config import load_config
from ggnet.engine import loggers
from ggnet.engine.loggers import LOGGERS, Loggers
from ggnet.engine.runs import resume_run
from ggnet.engine.trainer import RESULTS, train
from ggnet.errors import UserError

QUIET = Console(file=io.StringIO())


@pytest.fixture
def only_epochs(monkeypatch):
    monkeypatch.setattr("ggnet.engine.logging.LINE_SECONDS", math.inf)  # no points within an epoch


def train_and_resume(quick, run, name):
    """Two of three epochs, then the third in a second process's place."""
    settings = [*quick, f"train.loggers=[{name}]", "train.eval_every=1"]
    config = load_config(None, settings)
    original = Loggers.add

    def dying(self, values, step):
        original(self, values, step)
        assert step < 8

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loggers, "add", dying)
        with pytest.raises(AssertionError):
            train(config, run, console=QUIET)
    _, config, state = resume_run(run, None, [])
    train(config, run, resume=state, console=QUIET)
    with open(run / RESULTS, newline="") as file:
        return list(csv.DictReader(file))


def test_mlflow(quick, tmp_path, only_epochs):
    mlflow = pytest.importorskip("mlflow")
    rows = train_and_resume(quick, tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient((tmp_path / "run" / "mlflow").as_uri())
    [experiment] = [e for e in client.search_experiments() if e.name == "ggnet"]
    [found] = client.search_runs([experiment.experiment_id])  # the resumed run is the same
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert found.data.params["train.epochs"] == "3"
    for name in ("total", "mAP", "lr"):
        points = {m.step: m.value for m in client.get_metric_history(found.info.run_id, name)}
        expected = {int(row["step"]): pytest.approx(float(row[name]), rel=1e-4) for row in rows}
        assert points == expected


def test_wandb_offline(quick, tmp_path, only_epochs):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    train_and_resume(quick, run, "wandb")
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    ids = {folder.name.rpartition("-")[2] for folder in folders}
    assert ids == {(run / "wandb" / "run_id").read_text().strip()}  # parts of one run
    content = b"".join(path.read_bytes() for f in folders for path in f.glob("*.wandb"))
    assert b"images_per_second" in content
    assert b"points_per_step" in content


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_named_before_anything_is_written(quick, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    config = load_config(None, [*quick, f"train.loggers=[{name}]"])
    with pytest.raises(UserError, match=f"train.loggers has {name}.*pip install {name}"):
        train(config, tmp_path / "run", console=QUIET)
    assert not list((tmp_path / "run").glob("*"))


def test_a_folder_of_the_name_is_no_package(tmp_path, monkeypatch):
    """Such as wandb's own results where one works."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    (tmp_path / "wandb").mkdir()
    with pytest.raises(UserError, match="wandb, which is not installed"):
        loggers.check_installed(["wandb"])


class Failing(loggers.Logger):
    package = install = "json"

    def add(self, values, step):
        if step == 8:
            raise ConnectionError("the server is gone")


def test_a_logger_that_fails_costs_no_training(quick, tmp_path, only_epochs, monkeypatch, caplog):
    monkeypatch.setitem(LOGGERS, "mlflow", Failing)
    config = load_config(None, [*quick, "train.loggers=[mlflow]"])
    with caplog.at_level(logging.WARNING, "ggnet"):
        train(config, tmp_path / "run", console=QUIET)
    assert (
        caplog.text.count("mlflow gets no more figures: ConnectionError: the server is gone") == 1
    )
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())


def test_a_logger_that_cannot_begin_is_named(quick, tmp_path, monkeypatch, capsys):
    broken = types.ModuleType("wandb")
    monkeypatch.setattr(loggers, "check_installed", lambda names: None)
    monkeypatch.setattr("ggnet.engine.trainer.check_installed", lambda names: None)
    monkeypatch.setitem(sys.modules, "wandb", broken)
    run = str(tmp_path / "run")
    assert main(["train", "--out", run, *quick, "train.loggers=[wandb]"]) == 2
    assert "wandb cannot log (AttributeError" in capsys.readouterr().err

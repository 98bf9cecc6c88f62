"""Runs of seconds, in this process."""

import pytest
from ablate_command import ablate

from ggnet.ablate import ablate as module
from ggnet.ablate import execute, worker

TRIAL = {"training": 60.0, "evaluation": 3.0, "memory": 2**30}


@pytest.fixture(scope="module")
def tiny(quick):
    """Arguments for runs of seconds on the small dataset."""
    settings = dict(item.split("=", 1) for item in quick)
    root = settings.pop("data.root")
    del settings["model.points_per_step"]  # the rows' own
    return ["--root", root, "--jobs", "1", *(f"{key}={value}" for key, value in settings.items())]


def run_here(monkeypatch):
    """Let runs be done in this process, without trials before; the names of those begun."""
    begun = []

    def execute_here(jobs, count, stop, done):
        for job in jobs:
            begun.append(str(job))
            execute.write_config(job)
            worker.run(job.folder, job.config.data.root, job.boxes and job.boxes.path)
            done(job)
        return {}

    monkeypatch.setattr(module, "execute", execute_here)
    monkeypatch.setattr(module, "probe", lambda config: TRIAL)
    return begun


@pytest.fixture
def here(monkeypatch):
    """The names of the runs that were begun, in this process."""
    return run_here(monkeypatch)


@pytest.fixture(scope="module")
def theirs(tiny, tmp_path_factory):
    """The folder of a finished study: table7, two rows, one seed."""
    out = tmp_path_factory.mktemp("theirs") / "study"
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_here(monkeypatch)
        assert ablate("table7", out, "--rows", "lambda0.1,lambda0.5", "--seeds", 1, *tiny) == 0
    return out


@pytest.fixture
def trained(monkeypatch):
    """The verb exponents of the runs that were trained, not taken from another one."""
    found, original = [], worker.train

    def counted(config, *arguments, **named):
        found.append(config.eval.verb_exponent)
        return original(config, *arguments, **named)

    monkeypatch.setattr(worker, "train", counted)
    return found


@pytest.fixture
def no_trials(monkeypatch):
    """Without measuring a few steps of each row before."""
    monkeypatch.setattr(module, "probe", lambda config: TRIAL)

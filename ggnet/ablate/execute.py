"""Runs in processes of their own, several at a time."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ggnet.ablate.study import APART, Job, write_config
from ggnet.config import Config, load_config
from ggnet.engine.checkpoint import check_same_config
from ggnet.engine.device import choose_device
from ggnet.engine.signals import StopRequest
from ggnet.engine.trainer import CONFIG
from ggnet.errors import UserError

LOG = "log.txt"
POLL = 0.2  # seconds
WORKER = [sys.executable, "-m", "ggnet.ablate.worker"]


def check_folders(jobs: Iterable[Job]) -> None:
    """Refuse run folders that hold something else than their names say.

    Raises:
        UserError: a run with other settings.
    """
    for job in jobs:
        path = job.folder / CONFIG
        if path.exists():
            # The trainer writes down which HOIs a name such as rf-uc means.
            allowed = (APART | {"data.hois_unseen"}) - {"train.seed"}
            check_same_config(load_config(path), job.config, job.folder, allowed)


def default_jobs(device: str) -> int:
    """As many as there are GPUs, or processors."""
    if choose_device(device).type == "cuda":
        return len(_gpus())
    return len(os.sched_getaffinity(0))


def execute(
    jobs: Iterable[Job], count: int, stop: StopRequest, done: Callable[[Job], None]
) -> dict[str, str]:
    """Run the jobs in their order, `count` at a time, each on one thread or one GPU.

    A job waits for one that trains the same weights, and takes them.

    Args:
        stop: once requested, those that run save and end, and no other begins.
        done: called after each that has ended well.

    Returns:
        Of those that have not: their names and what they said last.
    """
    waiting, failed = list(jobs), {}
    running: dict[int, tuple[Job, subprocess.Popen]] = {}
    try:
        while running or (waiting and not stop.requested):
            for slot in set(range(count)) - running.keys():
                trained = {(job.training, job.seed) for job, _ in running.values()}
                ready = (job for job in waiting if (job.training, job.seed) not in trained)
                if not stop.requested and (job := next(ready, None)):
                    waiting.remove(job)
                    running[slot] = job, _start(job, slot)
            if stop.requested:
                _end(process for _, process in running.values())
            for slot, (job, process) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[slot]
                if process.returncode == 0:
                    done(job)
                elif not stop.requested:
                    failed[str(job)] = _last_words(job.folder / LOG)
            time.sleep(POLL)
    finally:
        _end(process for _, process in running.values())
        for _, process in running.values():
            process.wait()
    return failed


def probe(config: Config) -> dict[str, float]:
    """What a run of this configuration will need; see `ggnet.ablate.worker.probe`.

    Raises:
        UserError: it cannot run.
    """
    settings = json.dumps(config.model_dump(mode="json"))
    with tempfile.TemporaryFile("w+") as said:  # a full pipe that nobody reads would stop it
        process = subprocess.Popen(
            [*WORKER, "probe", settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=_environment(0, config),
        )
        # Not communicate: the end of its stdin would end it.
        with process:
            output, status = process.stdout.read(), process.wait()
        said.seek(0)
        errors = said.read().strip().rpartition("error: ")[2]
        if status != 0:
            raise UserError(errors or "a trial run was killed")
    return json.loads(output)


def _start(job: Job, slot: int) -> subprocess.Popen:
    write_config(job)
    boxes = [str(job.boxes.path)] if job.boxes else []
    with open(job.folder / LOG, "ab") as log:
        return subprocess.Popen(
            [*WORKER, "run", str(job.folder), job.config.data.root, *boxes],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=_environment(slot, job.config),
            start_new_session=True,  # Ctrl-C is ours to hand on
        )


def _environment(slot: int, config: Config) -> dict[str, str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if config.train.device in ("auto", "cuda") and (gpus := _gpus()):
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment


def _gpus() -> list[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _end(processes: Iterable[subprocess.Popen]) -> None:
    for process in processes:
        with suppress(OSError):
            process.stdin.close()


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    said: Any = next((line for line in reversed(lines) if line.startswith("error: ")), None)
    return f"{(said or (lines or ['nothing'])[-1]).removeprefix('error: ')} ({log})"

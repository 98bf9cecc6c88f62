"""The process of one run, whose arguments are `run FOLDER ROOT [BOXES]` or `probe SETTINGS`.

One thread on a CPU, so that results do not depend on how many runs there are beside it. It ends,
with a checkpoint, when the process that started it does: that one holds the other end of stdin.
"""

import csv
import json
import os
import platform
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch

import ggnet
from ggnet.ablate.rows import as_overrides
from ggnet.ablate.study import RESULT, SPLIT, hash_of, hash_of_boxes, write_result
from ggnet.commands.common import USER_ERROR
from ggnet.config import Config, load_config, parse_config
from ggnet.data.dataset import make_loader
from ggnet.data.unseen import open_dataset, training_records, training_vocabulary
from ggnet.engine.checkpoint import LAST, differing_keys, open_checkpoint
from ggnet.engine.device import choose_device
from ggnet.engine.evaluation import (
    PREDICTIONS,
    RESULTS,
    evaluate_checkpoint,
    selection_split,
)
from ggnet.engine.inference import Predictor
from ggnet.engine.lock import LOCK, hold_run
from ggnet.engine.optim import build_optimizer
from ggnet.engine.runs import RESUMABLE, FinishedRun, resume_run, stored_report
from ggnet.engine.signals import INTERRUPTED, Interrupted
from ggnet.engine.trainer import CONFIG, train
from ggnet.errors import UserError, reading
from ggnet.eval.report import Report
from ggnet.io import atomic_write
from ggnet.models import build_model
from ggnet.nn import GGNetLoss

PATIENCE = 120.0  # seconds that the run of a study that was killed may need to end
PROBED = 4  # steps


def run(folder: Path, root: str, boxes: Path | None = None) -> None:
    """Train, or go on; evaluate on the split `test`; write result.json.

    The weights are those of the last epoch: the best one would be chosen by the test images.

    Args:
        folder: the run's, with its config.yaml.
        root: of the dataset, which may have moved.
        boxes: a file of another detector's boxes, to be scored with.

    Raises:
        UserError: see `ggnet.engine.trainer.train`.
        Interrupted: stopped; there is a checkpoint.
    """
    started = time.monotonic()
    with _hold(folder):
        if boxes:
            _check_boxes(boxes, folder)
        config, state = load_config(folder / CONFIG, as_overrides({"data.root": root})), None
        of_eval = {f"eval.{key}": value for key, value in config.eval.model_dump().items()}
        at = as_overrides({"data.root": root} | of_eval)
        taken = not (folder / LAST).exists() and _take_training(folder, config)
        try:
            if (folder / LAST).exists():
                _, config, state = resume_run(folder, None, at)
            report = train(config, folder, resume=state)
        except FinishedRun:  # another row's training, or killed before its result
            report = stored_report(folder, config) if (folder / PREDICTIONS).exists() else None
        if report is None or boxes or selection_split(open_dataset(config.data)) != SPLIT:
            checkpoint, out = open_checkpoint(folder / LAST), folder / SPLIT
            report = evaluate_checkpoint(checkpoint, at, out, split=SPLIT, detections=boxes)
        seconds = time.monotonic() - started if taken else _training_seconds(folder)
        _write_result(folder, report, seconds, choose_device(config.train.device))


def _check_boxes(boxes: Path, folder: Path) -> None:
    with reading(boxes, "a file of boxes"):
        found = hash_of(boxes)
    if found != hash_of_boxes(folder):
        raise UserError(f"{boxes} has changed since the study began; give the command again")


def _take_training(folder: Path, config: Config) -> bool:
    """Take the checkpoint of a finished run of the study that differs in its evaluation alone.

    Returns:
        Whether there was one.
    """
    for other in sorted(folder.parent.iterdir()):
        if not ((other / RESULT).exists() and (other / LAST).exists()):
            continue
        differing = differing_keys(load_config(other / CONFIG), config)
        if any(not {key, key.partition(".")[0]} & RESUMABLE for key in differing):
            continue
        for name in (RESULTS, LAST):  # the checkpoint last: it tells that all is there
            with open(other / name, "rb") as there, atomic_write(folder / name, "wb") as here:
                shutil.copyfileobj(there, here)
        return True
    return False


def probe(config: Config) -> dict[str, float]:
    """What a run will need: seconds of training and of evaluation, bytes of memory at its peak.

    From a few steps and batches of the evaluation on real images; the first are not counted.
    """
    device = choose_device(config.train.device)
    dataset = open_dataset(config.data)
    vocabulary, records = dataset.vocabulary, training_records(dataset)
    model = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs))
    model = model.to(device, memory_format=torch.channels_last).train()
    loss, optimizer = GGNetLoss(config.loss), build_optimizer(model, config.train)
    few = records[: PROBED * config.train.batch_size]
    half = config.train.precision == "bf16"
    times = [time.monotonic()]
    for batch in make_loader(few, training_vocabulary(dataset), config, train=True):
        batch = batch.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            total, _ = loss(model(batch.images), batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        total.item()  # waits for the device
        times.append(time.monotonic())
    training = _mean_step(times) * len(records) / config.train.batch_size * config.train.epochs
    scored, _ = dataset.load_to_score(SPLIT, partial=config.eval.partial)
    if not any(len(record.pairs) for record in scored):
        raise UserError(f"split {SPLIT} of {dataset.root} has no annotated pair to score rows by")
    predictor = Predictor(model, vocabulary, config, device)
    times = [time.monotonic()]
    few = scored[: PROBED * config.eval.batch_size]
    for batch in make_loader(few, vocabulary, config, train=False):
        predictor(batch.images, batch.meta)
        times.append(time.monotonic())
    evaluation = _mean_step(times) * len(scored) / config.eval.batch_size
    return {"training": training, "evaluation": evaluation, "memory": _memory(device)}


def machine(device: torch.device) -> str:
    """What the processor or the GPU is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _mean_step(times: list[float]) -> float:
    """Seconds a step, the first one left out where there are others."""
    times = times[1:] if len(times) > 2 else times
    return (times[-1] - times[0]) / (len(times) - 1)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _training_seconds(folder: Path) -> float:
    path = folder / RESULTS
    with reading(path, "the table of the run's epochs"), open(path, newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def _write_result(folder: Path, report: Report, seconds: float, device: torch.device) -> None:
    values: dict[str, Any] = {
        "metrics": report.result.headline(),
        "errors": report.errors.to_dict(),
        "images": len(report.records),
        "seconds": seconds,
        "memory": _memory(device),
        "ggnet": ggnet.__version__,
        "torch": str(torch.__version__),
        "machine": machine(device),
    }
    write_result(folder, values)


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """The run folder, once a run of a study that was killed has left it."""
    deadline = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold_run(folder))
                break
            except UserError:
                if not (folder / LOCK).exists() or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield


def _end_with_parent() -> None:
    """Wait for the end of stdin; then ask this process to stop, as Ctrl-C does."""
    while os.read(0, 1):  # not sys.stdin, whose lock would be held at this process's end
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(what: str, *arguments: str) -> int:
    """Exit status as the command line's."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        if what == "probe":
            print(json.dumps(probe(parse_config(json.loads(arguments[0])))))
        else:
            run(Path(arguments[0]), arguments[1], *map(Path, arguments[2:]))
    except Interrupted:
        return INTERRUPTED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

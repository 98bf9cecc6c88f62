"""Training: one loop for a laptop's CPU and for several GPUs under torchrun.

Several processes: each computes the loss of its own batch, normalized by the interactions and
objects in that batch alone, and DistributedDataParallel averages the gradients. As in the
published code, whose loss is per GPU too, N processes with batch b are therefore not exactly one
process with batch N b: images in a batch with few interactions weigh more. Accumulated
micro-batches are averaged in the same way, so N processes equal one process with N micro-batches
(but for batch normalization, whose statistics are those of each process's batch).
"""

import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor

from ggnet.config import Config, TrainConfig
from ggnet.data.batch import Batch
from ggnet.data.dataset import make_loader, worker_errors
from ggnet.data.unseen import fix_unseen, open_dataset, training_records, training_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import (
    BEST,
    LAST,
    SaveSchedule,
    load_weights,
    rng_state,
    saved_config,
    set_rng_state,
)
from ggnet.engine.distributed import Worker, join_workers
from ggnet.engine.evaluation import (
    RESULTS,
    SELECTION,
    check_vocabulary,
    predict_split,
    selection_split,
    write_results,
)
from ggnet.engine.execution import capture_training, compile_training
from ggnet.engine.forecast import LONG_WAIT, Forecast, slowest
from ggnet.engine.importing import load_initial_weights
from ggnet.engine.inference import Predictor
from ggnet.engine.lock import hold_run
from ggnet.engine.loggers import Loggers, check_installed
from ggnet.engine.logging import ResultsLog, TrainingDisplay
from ggnet.engine.optim import WeightAverage, build_optimizer, scaled_lr, set_lr
from ggnet.engine.saving import CheckpointWriter
from ggnet.engine.signals import Interrupted, StopRequest
from ggnet.engine.step import Losses, StepReport
from ggnet.errors import UserError, reading
from ggnet.eval.report import Report
from ggnet.eval.score import score
from ggnet.io import atomic_write, temporary_prefix
from ggnet.models import build_model
from ggnet.nn import GGNetLoss

CONFIG = "config.yaml"
# On a GPU the host reads a step's flags this many steps later, when the device has long computed
# them: reading never waits. All processes read the same flags at the same step.
FLAG_LAG = 2
logger = logging.getLogger("ggnet")


@dataclass
class Position:
    """How far a run is: `step` optimizer steps of `epoch` (both from 0) are done.

    `sums` and the figures after it are of the current epoch so far.
    """

    epoch: int = 0
    step: int = 0
    best: float = -1.0  # best mAP so far
    sums: dict[str, float] = field(default_factory=dict)  # losses summed over steps and processes
    seconds: float = 0.0
    waited: float = 0.0  # seconds of it spent waiting for data
    images: int = 0
    dataset_size: int = 0  # training images; a resumed run must find as many
    world_size: int = 1


def train(
    config: Config,
    run: str | Path,
    *,
    resume: dict[str, Any] | None = None,
    console: Console | None = None,
) -> Report | None:
    """Train in the run folder `run`, then evaluate on the split that the best epoch is chosen by.

    That is val where the dataset has one, else test, else none.

    Args:
        resume: the checkpoint to go on from (`load_checkpoint`), of the same configuration. It is
            emptied: its tensors would take memory for as long as the training lasts.

    Returns:
        The final metrics on the main process, else None.

    Raises:
        UserError: a problem with the dataset, the run folder, the device or the checkpoint; another
            process trains in the folder; a loss that is not finite, with the images' names.
        Interrupted: Ctrl-C or SIGTERM; last.pt holds the state.
    """
    console = console or Console()
    with (
        join_workers(config.train.device) as worker,
        hold_run(run) if worker.is_main else nullcontext(),
        worker_errors(),
    ):
        shown = console if worker.is_main else Console(quiet=True)
        trainer = Trainer(config, Path(run), worker, shown)
        if resume is not None:
            trainer.restore(resume)
            resume.clear()
        elif config.train.init:
            trainer.initialize(config.train.init)
        return trainer.fit()


class Trainer:
    """The state of a run and the loop over it; see `train`."""

    def __init__(self, config: Config, run: Path, worker: Worker, console: Console):
        self.run, self.worker, self.console = run, worker, console
        _seed(config)
        self.dataset = open_dataset(config.data)
        fixed = fix_unseen(config.data, self.dataset)
        self.config = config = config.model_copy(update={"data": fixed})
        self.vocabulary = self.dataset.vocabulary
        self.records = training_records(self.dataset)
        self.split = selection_split(self.dataset)
        self.scored, self.missing_images = None, 0
        if self.split is not None:
            self.scored, self.missing_images = self.dataset.load_to_score(
                self.split, partial=config.eval.partial
            )
        elif config.train.eval_every is not None:
            raise UserError(
                f"train.eval_every is {config.train.eval_every}, but {config.data.root} has no "
                f"split to evaluate; expected {' or '.join(SELECTION)} in its dataset.json. Add "
                "one, or leave out train.eval_every"
            )
        self.loader = make_loader(
            self.records,
            training_vocabulary(self.dataset),
            config,
            train=True,
            rank=worker.rank,
            world_size=worker.world_size,
            device=worker.device,
        )
        self.steps_per_epoch = -(-len(self.loader) // config.train.accumulate)
        model = build_model(config.model, len(self.vocabulary.objects), len(self.vocabulary.verbs))
        if config.train.sync_batchnorm:
            model = worker.share_statistics(model)
        self.model = model.to(worker.device, memory_format=torch.channels_last)
        self.parameters = list(self.model.parameters())
        self.wrapped = worker.wrap(self.model)
        self.loss = GGNetLoss(config.loss)
        self.images_per_step = worker.world_size * config.train.batch_size * config.train.accumulate
        self.optimizer = build_optimizer(self.model, config.train, self.images_per_step)
        self.average = WeightAverage(self.model, config.train.ema) if config.train.ema else None
        self.position = Position(dataset_size=len(self.records), world_size=worker.world_size)
        self._sums: Losses | None = None  # this process's losses in this epoch
        self._not_finite = torch.zeros((), device=worker.device)
        self._reports: deque[StepReport] = deque()
        self._writer = CheckpointWriter()
        self._saves = SaveSchedule(config.train.checkpoint_minutes, config.train.checkpoint_steps)
        self._stages: Counter[str] = Counter()  # seconds of the loader's processes
        self._forecast = Forecast(
            self.steps_per_epoch, config.train.epochs, worker.device, self.loader.num_workers
        )
        self._resumed = False
        self._to_capture = config.train.execution == "capture"
        if self._to_capture:
            _check_capture(worker)
        elif config.train.execution == "compile":
            compile_training(self.model)

    @property
    def global_step(self) -> int:
        """Optimizer steps done since the start of the run."""
        return self.position.epoch * self.steps_per_epoch + self.position.step

    def initialize(self, path: str) -> None:
        """Start from the weights in a file; see `load_initial_weights`."""
        text = load_initial_weights(self.model, path, self.config.model, self.vocabulary)
        if self.average is not None:
            self.average.module.load_state_dict(self.model.state_dict())
        self.console.print(f"Initial weights: {text}", soft_wrap=True, highlight=False)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of this configuration.

        Raises:
            UserError: it holds no optimizer state, or the dataset or the number of processes is
                not what it was.
        """
        path = self.run / LAST
        with reading(path, "a checkpoint of this training"):
            self._restore(state, path)

    def _restore(self, state: dict[str, Any], path: Path) -> None:
        if state["optimizer"] is None:
            raise UserError(f"a checkpoint without optimizer state cannot go on; resume {path}")
        check_vocabulary(self.dataset, Vocabulary.from_dict(state["vocabulary"]), path)
        position = Position(**state["progress"])
        if (was := position.dataset_size) != (now := self.position.dataset_size):
            raise UserError(
                f"{path} was made with {was} training images, now there are {now}: the order of "
                "the batches would change. Resume with as many, or start a new run"
            )
        self._check_batch(saved_config(state, path).train, position.world_size, path)
        if min(position.epoch, position.step, self.steps_per_epoch - position.step) < 0:
            raise ValueError(f"there is no epoch {position.epoch}, step {position.step}")
        load_weights(self.model, state["model"], path)
        if self.average is not None:
            load_weights(self.average.module, state["ema"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        if position.sums:
            # Already summed over the processes: the main one carries it, the others start at 0.
            share = self.worker.is_main * self.worker.world_size / position.world_size
            sums = torch.tensor(list(position.sums.values()), dtype=torch.float64)
            sums = sums.to(self.worker.device) * share
            self._sums = Losses(tuple(position.sums), sums)
        self.position = position
        position.world_size = self.worker.world_size
        self._resumed = True
        set_rng_state(state["rng"])

    def _check_batch(self, saved: TrainConfig, processes: int, path: Path) -> None:
        """Other processes may go on, if together they see the same images in each step."""
        now, here = self.config.train, self.worker.world_size
        before = processes * saved.batch_size * saved.accumulate
        batches = max(len(self.records) // (processes * saved.batch_size), 1)
        steps = -(-batches // saved.accumulate)
        if self.images_per_step == before and self.steps_per_epoch == steps:
            return
        fits = before % (here * now.accumulate) == 0
        hint = f"train.batch_size={before // (here * now.accumulate)} or " if fits else ""
        raise UserError(
            f"{path} was made with {processes} processes x train.batch_size={saved.batch_size} x "
            f"train.accumulate={saved.accumulate}, {before} images a step; now there are {here} x "
            f"{now.batch_size} x {now.accumulate}: the order of the images would change. Resume "
            f"with {hint}as many processes as before, or start a new run"
        )

    def fit(self) -> Report | None:
        """Run to the last epoch and evaluate; see `train`."""
        worker = self.worker
        # From before the first checkpoint: whoever sees it may stop the run.
        with StopRequest(worker.is_main, worker.echo_seconds) as stop:
            try:
                return self._fit(stop)
            finally:
                self._writer.wait()

    def _fit(self, stop: StopRequest) -> Report | None:
        position, config, worker = self.position, self.config.train, self.worker
        if worker.is_main:
            self._open_run()
        if not self._resumed:
            self._save()
            self._writer.wait()  # which shows at once whether there is permission and space
        log = ResultsLog(self.run / RESULTS, position.epoch)
        board = None
        if worker.is_main:
            # What an interrupted run has logged after its checkpoint is hidden.
            first = self.global_step + (position.step == 0) if self._resumed else None
            settings = self.config.model_dump(mode="json")
            board = Loggers(config.loggers, self.run, settings, first)
        self.console.print(self._headline(), soft_wrap=True, highlight=False)
        steps = config.epochs * self.steps_per_epoch
        display = TrainingDisplay(self.console, steps, self.global_step)
        report = None
        try:
            while position.epoch < config.epochs:
                with display:
                    self._train_epoch(stop, display, board)
                report = self._finish_epoch(stop, log, board)
        finally:
            if board:
                board.close()
        return report

    # -- an epoch ---------------------------------------------------------------------------------

    def _train_epoch(
        self, stop: StopRequest, display: TrainingDisplay, board: Loggers | None
    ) -> None:
        position, config = self.position, self.config.train
        self.model.train()
        self.loader.set_epoch(position.epoch, position.step * config.accumulate)
        batches = iter(self.loader) if position.step < self.steps_per_epoch else None
        window = self._snapshot()
        now = time.monotonic()
        while position.step < self.steps_per_epoch:
            waited = position.waited
            left = len(self.loader) - position.step * config.accumulate
            self._step(batches, min(config.accumulate, left), stop)
            now, started = time.monotonic(), now
            position.seconds += now - started
            if line := self._forecast.add(
                now - started, position.waited - waited, dict(self._stages)
            ):
                self.console.print(line, soft_wrap=True, highlight=False)
            self._handle_reports(FLAG_LAG)
            if display.due():
                window = self._show(display, board, window)
        self._handle_reports(0)

    def _step(self, batches: Iterator[Batch], micro_batches: int, stop: StopRequest) -> None:
        """One optimizer step over `micro_batches` batches."""
        position = self.position
        set_lr(self.optimizer, self.config.train, self.global_step, self.steps_per_epoch)
        self.optimizer.zero_grad()
        losses, images = self._backward(batches, micro_batches)
        norm = self._clip()
        self._saves.count()
        # Only the main process's clock counts; asked for once, it is not asked for again.
        if save := self.worker.is_main and self._saves.due():
            self._saves.restart()
        where = f"epoch {position.epoch + 1}, step {position.step + 1}"
        wishes = {"stop": stop.requested, "save": save}
        report = StepReport(self.worker, where, images, losses, norm, **wishes)
        self._leave_out_if_not_finite(report)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.global_step)
        self._sums = losses if self._sums is None else self._sums + losses
        self._reports.append(report)
        position.step += 1

    def _backward(self, batches: Iterator[Batch], micro_batches: int) -> tuple[Losses, list[str]]:
        """Gradients of the mean over the batches; its losses and the images' file names."""
        position, share = self.position, 1 / micro_batches
        losses, images = None, []
        for index in range(micro_batches):
            started = time.monotonic()
            batch = next(batches)
            position.waited += time.monotonic() - started
            self._stages.update(batch.seconds)
            position.images += len(batch) * self.worker.world_size
            images += [meta.file_name for meta in batch.meta]
            with self.worker.averaging(self.wrapped, now=index == micro_batches - 1):
                mine = self._backward_batch(batch.to(self.worker.device), share)
            losses = mine if losses is None else losses + mine
        return losses, images

    def _backward_batch(self, batch: Batch, share: float) -> Losses:
        """Add `share` of a batch's gradient; that share of its losses."""
        enabled = self.config.train.precision == "bf16"
        if self._to_capture:
            capture_training(self.model, batch.images, torch.bfloat16 if enabled else None)
            self._to_capture = False
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=enabled):
            total, terms = self.loss(self.wrapped(batch.images), batch, self._progress())
        (total * share).backward()
        return Losses.of(total, terms) * share

    def _progress(self) -> float:
        """Share of the training that is done."""
        return self.global_step / (self.config.train.epochs * self.steps_per_epoch)

    def _clip(self) -> Tensor:
        """Clip the gradient where that is wanted; its norm before."""
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None]
        )
        if self.config.train.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.train.clip, norm)
        return norm

    def _leave_out_if_not_finite(self, report: StepReport) -> None:
        """End the run, or where the host does not know yet, let the device leave out this step and
        all later ones."""
        if report.is_late:
            self._not_finite = torch.maximum(self._not_finite, report.not_finite)
            self.optimizer.found_inf = self._not_finite
        else:
            self._raise_if_not_finite(report)

    def _handle_reports(self, lag: int) -> None:
        """Act on what the steps reported, of late reports on those up to `lag` steps ago; all
        processes do the same."""
        self._writer.check()
        while self._reports and len(self._reports) > lag * self._reports[0].is_late:
            report = self._reports.popleft()
            self._raise_if_not_finite(report)
            outcome = report.read()
            if outcome.stop or outcome.save:
                for later in self._reports:  # steps that the checkpoint will contain
                    self._raise_if_not_finite(later)
                self._save()
            if outcome.stop:
                raise Interrupted

    def _raise_if_not_finite(self, report: StepReport) -> None:
        outcome = report.read()
        if not outcome.not_finite:
            return
        losses = outcome.losses.items()
        terms = [f"{name} is {value}" for name, value in losses if not math.isfinite(value)]
        everyone = self.worker.gather((outcome.loss_not_finite, report.images, terms))
        culprits = [item for item in everyone if item[0]] or everyone
        if not self.worker.is_main:
            raise SystemExit(2)  # the main process speaks for all
        images = ", ".join(name for _, names, _ in culprits for name in names)
        terms = list(dict.fromkeys(term for *_, terms in culprits for term in terms))
        what = (
            f"the loss is not finite ({', '.join(terms)})" if terms else "a gradient is not finite"
        )
        raise UserError(
            f"{what} at {report.where}. The weights were not changed by it. Images of that batch: "
            f"{images}. Check their annotations (`ggnet data verify`); if they are right, start "
            f"again with a lower train.lr or train.clip=1. {self.run / LAST} is from before."
        )

    def _finish_epoch(
        self, stop: StopRequest, log: ResultsLog, board: Loggers | None
    ) -> Report | None:
        """Evaluate if it is time, log the epoch, save."""
        position, config, worker = self.position, self.config.train, self.worker
        epoch = position.epoch + 1
        final = epoch == config.epochs
        due = final or (config.eval_every is not None and epoch % config.eval_every == 0)
        report = None
        if due and self.scored is not None:
            self._save()
            report = self._evaluate(stop, final)
        metrics = report.result.headline() if report is not None else {}
        sums = Losses(self._sums.names, worker.sum_(self._sums.values))
        means = sums / (position.step * worker.world_size)
        row = {
            "epoch": epoch,
            "step": self.global_step,
            "lr": self.optimizer.param_groups[0]["lr"],
            **means.to_dict(),
            **metrics,
            "images_per_second": position.images / max(position.seconds, 1e-9),
            "data_wait": position.waited / max(position.seconds, 1e-9),
            "seconds": position.seconds,
        }
        if worker.is_main:
            log.add(row)
        if board:
            board.add(
                {name: row[name] for name in row.keys() - {"epoch", "step"}}, self.global_step
            )
        improved = metrics.get("mAP", -1.0) > position.best
        position.epoch, position.step = epoch, 0
        position.sums, position.seconds, position.waited, position.images = {}, 0.0, 0.0, 0
        self._sums = None
        if improved:
            position.best = metrics["mAP"]
            self._save(BEST)
        self._save()
        return report

    def _evaluate(self, stop: StopRequest, final: bool) -> Report | None:
        """Metrics on the main process, None on the others."""
        self._writer.wait()  # processes that load images are not to be born beside a busy thread
        model = self.average.module if self.average else self.model
        self.worker.synchronize_(model)
        predictor = Predictor(model, self.vocabulary, self.config, self.worker.device)
        predictions = predict_split(predictor, self.scored, self.worker, self.console, stop)
        if not self.worker.is_main:
            return None
        report = score(
            predictions,
            self.dataset,
            self.split,
            self.config.eval,
            self.scored,
            self.missing_images,
        )
        if final:
            write_results(self.run, report)
        else:
            headline = report.result.headline().items()
            means = "  ".join(f"{name} {value:.2f}" for name, value in headline)
            self.console.print(f"epoch {self.position.epoch + 1}  {means}", highlight=False)
        return report

    # -- files and screen -------------------------------------------------------------------------

    def _open_run(self) -> None:
        """Refuse to overwrite another run; leave the configuration in the folder."""
        check_installed(self.config.train.loggers)
        if not self._resumed and (self.run / LAST).exists():
            raise UserError(
                f"{self.run} already holds a run. Continue it with `ggnet train --resume "
                f"{self.run}`, or choose another folder with --out"
            )
        self._write_config()
        for name in (LAST, BEST):  # left by a process that was killed while writing
            for stale in self.run.glob(f"{temporary_prefix(Path(name))}*"):
                stale.unlink(missing_ok=True)

    def _write_config(self) -> None:
        with atomic_write(self.run / CONFIG, "w") as file:
            yaml.safe_dump(self.config.model_dump(mode="json"), file, sort_keys=False)

    def _save(self, name: str = LAST) -> None:
        """Have a checkpoint written. All processes call it, for the sum of their losses."""
        if self._sums is not None:
            total = self.worker.sum_(self._sums.values.clone())
            self.position.sums = Losses(self._sums.names, total).to_dict()
        self._saves.restart()
        if not self.worker.is_main:
            return
        best = name == BEST  # for use, not for resuming: a third of the size
        state = {
            "config": self.config.model_dump(mode="json"),
            "vocabulary": self.vocabulary.to_dict(),
            "model": self.model.state_dict(),
            "ema": self.average.module.state_dict() if self.average else None,
            "optimizer": None if best else self.optimizer.state_dict(),
            "progress": asdict(self.position),
            "rng": None if best else rng_state(),
        }
        with hold_run(self.run) as folder:
            if not folder.is_held():
                logger.warning(
                    "the run folder %s was deleted during the training: it is made again, without "
                    "what it held",
                    self.run,
                )
                folder.open()
                self._write_config()
            self._writer.write(self.run / name, state)

    def _headline(self) -> str:
        config, worker, position = self.config, self.worker, self.position
        millions = sum(p.numel() for p in self.parameters) / 1e6
        waiting = os.environ.get("OMP_WAIT_POLICY", "by OpenMP's default")
        device = f"{worker.device.type} ({torch.get_num_threads()} threads, waiting: {waiting})"
        if worker.device.type == "cuda":
            device = torch.cuda.get_device_name(worker.device)
        processes = f"{worker.world_size} x " if worker.world_size > 1 else ""
        text = (
            f"{config.model.backbone}, {millions:.2f} M parameters, {processes}{device}; "
            f"{len(self.records)} images of {self.vocabulary.name}, {config.train.epochs} epochs "
            f"of {self.steps_per_epoch} steps; run folder {self.run}"
        )
        if config.train.lr_batch not in (None, self.images_per_step):
            scaled = scaled_lr(config.train, self.images_per_step)
            text += f"; lr {scaled:.3g} for {self.images_per_step} images a step"
        if self.split is not None:
            text += f"; the best epoch is chosen by split {self.split}"
        if self.dataset.unseen is not None:
            text += f"; without {self.dataset.unseen.hois.sum()} unseen HOIs"
        if self._resumed:
            text += f"; resumed at epoch {position.epoch + 1}, step {position.step + 1}"
        return text

    def _snapshot(self) -> tuple[Losses | None, Position]:
        return self._sums, replace(self.position)

    def _show(
        self,
        display: TrainingDisplay,
        board: Loggers | None,
        window: tuple[Losses | None, Position],
    ) -> tuple[Losses | None, Position]:
        """Display the means since `window` and return the next one's beginning."""
        sums, before = window
        now = self.position
        change = self._sums if sums is None else self._sums - sums
        losses = (change / max(now.step - before.step, 1)).to_dict()
        seconds = max(now.seconds - before.seconds, 1e-9)
        rate, wait = (now.images - before.images) / seconds, (now.waited - before.waited) / seconds
        figures = [f"{rate:.{0 if rate >= 10 else 2}f} images/s", f"data wait {100 * wait:.0f} %"]
        if wait > LONG_WAIT and self._stages:
            figures[-1] += f": {slowest(self._stages)}"
        if self.worker.device.type == "cuda":
            figures.append(f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        epoch = f"epoch {now.epoch + 1}/{self.config.train.epochs}"
        display.show(self.global_step, epoch, losses, figures)
        if board:
            lr = self.optimizer.param_groups[0]["lr"]
            board.add({**losses, "lr": lr, "images_per_second": rate}, self.global_step)
        return self._snapshot()


def _check_capture(worker: Worker) -> None:
    if worker.device.type != "cuda":
        raise UserError(
            f"train.execution=capture makes CUDA graphs, and the device is {worker.device}; "
            "expected a GPU, or train.execution=eager"
        )
    if worker.world_size > 1:
        raise UserError(
            f"train.execution=capture is for one process, and there are {worker.world_size}: "
            "gradients are averaged between the parts of a graph. Expected eager or compile"
        )


def _seed(config: Config) -> None:
    """The same initial weights in all processes; determinism where it is wanted."""
    torch.manual_seed(config.train.seed)
    torch.backends.cudnn.benchmark = not config.train.deterministic
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)

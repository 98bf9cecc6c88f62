"""Images, and targets for training, in batches from worker processes."""

import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import active_children
from multiprocessing.queues import Queue
from pathlib import Path
from threading import Event, Thread
from typing import ClassVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ggnet.config import Config, DataConfig
from ggnet.cores import cores_of_process
from ggnet.data.annotations import ImageRecord
from ggnet.data.batch import Batch, ImageBatch
from ggnet.data.images import open_image
from ggnet.data.preprocess import ImageMeta, preprocess, stack_bytes, stack_inputs
from ggnet.data.problems import Problems
from ggnet.data.targets import build_targets
from ggnet.data.transforms import transform_boxes
from ggnet.data.transport import Packed, Piped, Sender
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError

WAIT_SECONDS = 60.0  # without a batch, then it is said what is waited for
PREFETCH = 2  # batches that a worker makes ahead
MAX_WORKERS = 8  # by default: 250 images a second each, and a disk reads no faster for more
LOOK_SECONDS = 5.0  # between looks at whether the workers are alive
STOPPED = "loader process {} was stopped; it goes on now"
logger = logging.getLogger("ggnet")


class HOIDataset(TorchDataset):
    """Samples of one split, one image each; only `train` augments and makes targets.

    A sample is drawn from random numbers seeded by (seed, epoch, index) alone, so it does not
    depend on which process makes it, nor on what was drawn before. `dataset[index]` is epoch 0;
    the loader asks for `dataset[epoch, index]`.
    """

    def __init__(
        self,
        records: list[ImageRecord],
        vocabulary: Vocabulary,
        config: Config,
        *,
        train: bool,
        problems: Problems | None = None,
    ):
        found = Problems() if problems is None else problems
        self.config, self.seed, self.stride = config.data, config.train.seed, config.model.stride
        self.hard_negative_radius = config.loss.hard_negative_radius
        if train:
            records = [_capped(record, self.config, found) for record in records]
        if problems is None:
            found.log()
        self.records, self.vocabulary, self.train = records, vocabulary, train

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """`input` (an `InputImage`), the `seconds` of each stage and, for training, the fields of
        `build_targets`.

        Raises:
            UserError: the image cannot be read.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record, started = self.records[index], time.perf_counter()
        with open_image(record.path) as image:
            found = preprocess(
                image,
                self.config,
                file_name=record.file_name,
                image_id=record.image_id,
                rng=np.random.default_rng((self.seed, epoch, index)) if self.train else None,
            )
        targets = self._targets(record, found.meta) if self.train else {}
        others = time.perf_counter() - started - sum(image.seconds.values())
        return {"input": found, "seconds": image.seconds | {"cropping": others}, **targets}

    def _targets(self, record: ImageRecord, meta: ImageMeta) -> dict[str, np.ndarray]:
        height, width = self.config.input_size
        return build_targets(
            transform_boxes(record.boxes, meta.affine) / self.stride,
            record.labels,
            record.pairs,
            self.vocabulary.valid_pairs,
            (height // self.stride, width // self.stride),
            self.config.compat,
            self.hard_negative_radius,
        )

    def __getitems__(self, keys: list) -> list[dict] | UserError:
        """A batch of samples, or the error that stops them: torch's workers would bury its
        message in a traceback, so it travels as a value and `HOILoader` raises it."""
        try:
            return [self[key] for key in keys]
        except UserError as error:
            return error


def _capped(record: ImageRecord, config: DataConfig, problems: Problems) -> ImageRecord:
    boxes, pairs = record.boxes[: config.max_objects], record.pairs
    if len(boxes) < len(record.boxes):
        problems.add("boxes beyond the cap", record.path, "", f"{len(record.boxes)} boxes")
        pairs = pairs[(pairs[:, :2] < len(boxes)).all(axis=1)]
    if len(pairs) > config.max_pairs:
        problems.add("pairs beyond the cap", record.path, "", f"{len(record.pairs)} pairs")
        pairs = pairs[: config.max_pairs]
    if len(boxes) == len(record.boxes) and len(pairs) == len(record.pairs):
        return record
    return replace(record, boxes=boxes, labels=record.labels[: len(boxes)], pairs=pairs)


def collate(samples: list[dict] | UserError, as_bytes: bool = False) -> ImageBatch | UserError:
    """Stack samples, to a `Batch` where they have targets; these get their image's number as first
    column. Images are the network's input, or `as_bytes` what `Batch.to` makes it of."""
    if isinstance(samples, UserError):
        return samples
    inputs = [sample["input"] for sample in samples]
    images, colors = stack_bytes(inputs) if as_bytes else (stack_inputs(inputs), None)
    meta = [image.meta for image in inputs]
    targets = {}
    for name in samples[0]:
        if name in ("input", "seconds"):
            continue
        parts = [sample[name] for sample in samples]
        if name in ("objects", "interactions", "hard_negatives"):
            parts = [np.insert(part, 0, number, axis=1) for number, part in enumerate(parts)]
        targets[name] = torch.from_numpy(np.concatenate(parts))
    kind = Batch if targets else ImageBatch
    seconds = sum((Counter(sample["seconds"]) for sample in samples), Counter())
    return kind(images, meta, colors=colors, seconds=dict(seconds), **targets)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys for one of `world_size` processes.

    Training shuffles by (seed, epoch) alone, cuts the order into global batches of
    `world_size * batch_size` and gives each process its share of every one, so that several
    processes see what one with the larger batch would. The incomplete last global batch is left
    out, unless it is the only one. Evaluation gives each process every `world_size`-th image.
    """

    def __init__(
        self, count: int, batch_size: int, *, train: bool, seed: int, rank: int, world_size: int
    ):
        if train and count < world_size:
            raise UserError(
                f"{count} training images for {world_size} processes; expected one for each at "
                "least. Start fewer processes"
            )
        self.count, self.batch_size, self.train, self.seed = count, batch_size, train, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """What the next iteration gives: `epoch`, without its first `start` batches."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        if self.train:
            return max(self.count // (self.batch_size * self.world_size), 1)
        mine = len(range(self.rank, self.count, self.world_size))
        return -(-mine // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.train:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
            steps = np.array_split(order, [len(self) * self.batch_size * self.world_size])[0]
            steps = np.array_split(steps, len(self))
            batches = [np.array_split(step, self.world_size)[self.rank] for step in steps]
        else:
            mine = np.arange(self.rank, self.count, self.world_size)
            starts = range(0, len(mine), self.batch_size)
            batches = [mine[start : start + self.batch_size] for start in starts]
        for batch in batches[self.start :]:
            yield [(self.epoch, int(index)) for index in batch]


class _WorkersBatches(_MultiProcessingDataLoaderIter):
    """torch's, quiet where its construction fails half way: what is thrown away asks for this."""

    _shutdown = True  # until there is anything to shut down


class HOILoader(DataLoader):
    """A DataLoader of `Batch`es for training, of `ImageBatch`es for evaluation.

    Its workers' UserErrors arrive with their message alone. A batch that is long in coming is
    waited for, and it is said why.
    """

    batch_sampler: EpochBatches
    _asked: float | None = None  # when torch was asked for the batch that it has not given yet
    _told: ClassVar[set[str]] = set()  # said once, not once a loader

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """See `EpochBatches.set_epoch`; call it before each iteration of a training loader."""
        self.batch_sampler.set_epoch(epoch, start)

    def __iter__(self) -> Iterator[ImageBatch]:
        """The batches.

        Raises:
            UserError: an image cannot be read; a worker cannot be started, or died.
        """
        try:
            with worker_errors():
                with _signals_held():  # until a worker ignores them
                    batches = super().__iter__()
                with self._watched():
                    while (batch := self._next(batches)) is not None:
                        if isinstance(batch, UserError):
                            raise batch
                        if isinstance(batch, Piped):
                            self._tell(batch.reason)
                        if isinstance(batch, Piped | Packed):
                            batch = batch.unpack()
                        yield batch
        except OSError as error:
            raise UserError(
                f"the processes that load images cannot be used: {error.strerror or error}. Set "
                "data.workers lower (0: none), or raise the system's limit (`ulimit -a`)"
            ) from error

    def _get_iterator(self) -> Iterator:
        return _WorkersBatches(self) if self.num_workers else super()._get_iterator()

    def _next(self, batches: Iterator) -> ImageBatch | Packed | Piped | UserError | None:
        """The next item, None at the end."""
        waited, told = 0.0, 0.0
        while True:
            self._asked = time.monotonic()
            try:
                return next(batches, None)
            except RuntimeError as error:
                if "timed out" not in str(error):
                    raise
            finally:
                self._asked = None
            waited += self.timeout
            if waited < told + WAIT_SECONDS:
                continue
            told = waited
            reason = "the loader processes are still reading. Is the disk or the network slow?"
            if stopped := _continue_stopped():
                reason = STOPPED.format(stopped)
            # An error by its level: whichever process is waiting must be heard.
            logger.error("no images for %.0f s: %s", waited, reason)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """While entered, a worker that was stopped in the midst of handing over a batch goes on:
        torch waits for its file descriptor without looking at the time."""
        done, interval = Event(), min(WAIT_SECONDS, LOOK_SECONDS)

        def look() -> None:
            while not done.wait(interval):
                asked = self._asked
                waited = 0 if asked is None else time.monotonic() - asked
                if waited > WAIT_SECONDS + interval and (stopped := _continue_stopped()):
                    logger.error("no images for %.0f s: %s", waited, STOPPED.format(stopped))

        if self.num_workers:
            Thread(target=look, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            logger.warning("images come from the loader processes more slowly: %s", reason)
        self._told.add(reason)


@contextmanager
def worker_errors() -> Iterator[None]:
    """While entered, a loader process that dies is a UserError, whatever is going on.

    torch raises its RuntimeError from the handler of the signal, so at any time.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):
            raise
        reason = str(error).partition(". ")[0].removeprefix("DataLoader ")
        raise UserError(
            f"a process that loads images failed: {reason}. If it was killed, the machine has most "
            "often run out of memory: set data.workers lower. `ggnet train --resume` goes on from "
            "the last checkpoint"
        ) from error
    finally:
        _continue_stopped()  # so that they can end


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals to end come when the block is left, and in processes started in it when they like."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _continue_stopped() -> str:
    """Let child processes go on that somebody stopped; their numbers."""
    stopped = [process.pid for process in active_children() if _state(process.pid) == "T"]
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    return ", ".join(map(str, stopped))


def _state(pid: int) -> str:
    """The kernel's letter for a process's state; "?" where it does not tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"


def make_loader(
    records: list[ImageRecord],
    vocabulary: Vocabulary,
    config: Config,
    *,
    train: bool,
    rank: int = 0,
    world_size: int = 1,
    problems: Problems | None = None,
    device: torch.device | str = "cpu",
) -> HOILoader:
    """The loader of one split for process `rank` of `world_size`.

    For a `device` other than a CPU, images travel as bytes, a quarter of what the network takes,
    and `Batch.to` computes their colors there; for a CPU the loader's processes do.

    Batches depend on config.train.seed and the epoch, not on the number of workers. A training
    loader resumes in the middle of an epoch with `set_epoch(epoch, start)`, which loads none of the
    images before.
    """
    device = torch.device(device)
    workers = config.data.workers
    if workers is None:
        workers = default_workers(device)
    dataset = HOIDataset(records, vocabulary, config, train=train, problems=problems)
    batches = EpochBatches(
        len(dataset),
        config.train.batch_size if train else config.eval.batch_size,
        train=train,
        seed=config.train.seed,
        rank=rank,
        world_size=world_size,
    )
    return HOILoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=Sender(partial(collate, as_bytes=device.type != "cpu"), PREFETCH),
        timeout=min(WAIT_SECONDS, LOOK_SECONDS) if workers else 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        persistent_workers=train and workers > 0,
    )


def default_workers(device: torch.device) -> int:
    """How many loader processes data.workers=null means: a CPU that trains wants its cores for
    that, a GPU wants images."""
    return 1 if device.type == "cpu" else min(max(cores_of_process() - 1, 1), MAX_WORKERS)


def _start_worker(_worker: int) -> None:
    """What a loader process does first; signals to end are held back since its birth."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_await_end, daemon=True).start()
    Queue._on_queue_feeder_error = staticmethod(_end_worker)
    cv2.setNumThreads(0)  # as many threads as workers is enough; OpenCV's pool dies in a fork


def _await_end() -> None:
    """Ctrl-C, Slurm and systemd signal all processes, but only the trainer ends its workers: it
    saves first, and may need their batches for that."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _end_worker(error: Exception, _item: object) -> None:
    """A batch could not be sent. Its loss would be waited for for ever; a death is noticed."""
    if not isinstance(error, BrokenPipeError):  # nobody wants it any more
        print(f"a loader process cannot send its batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)

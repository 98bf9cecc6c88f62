"""Images and targets for training and evaluation, in batches, from worker processes."""

import signal
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from ggnet.config import Config, DataConfig
from ggnet.data import transforms
from ggnet.data.annotations import ImageRecord
from ggnet.data.batch import Batch
from ggnet.data.images import read_image
from ggnet.data.problems import Problems
from ggnet.data.targets import STRIDE, build_targets
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError


class HOIDataset(TorchDataset):
    """Samples of one split, one image each.

    A sample is drawn from random numbers seeded by (seed, epoch, index) alone, so it does not
    depend on which process makes it, nor on what was drawn before. `dataset[index]` is epoch 0;
    the loader asks for `dataset[epoch, index]`.
    """

    def __init__(
        self,
        records: list[ImageRecord],
        vocabulary: Vocabulary,
        config: DataConfig,
        *,
        train: bool,
        seed: int = 0,
        problems: Problems | None = None,
    ):
        found = Problems() if problems is None else problems
        self.records = [_capped(record, config, found) for record in records] if train else records
        if problems is None:
            found.log()
        self.vocabulary, self.config, self.train, self.seed = vocabulary, config, train, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> dict:
        """The image (H, W, 3) float32, the fields of `build_targets`, and `meta`.

        Raises:
            UserError: the image cannot be read.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record, config = self.records[index], self.config
        original = config.compat == "original"
        rng = np.random.default_rng((self.seed, epoch, index))
        image = read_image(record.path)
        height, width = image.shape[:2]
        size = config.input_size
        augment = self.train and config.augment
        if augment:
            affine = transforms.random_crop_affine(
                width, height, size, rng, config.scale, config.shift, config.flip
            )
        else:
            affine = transforms.letterbox_affine(width, height, size)
        pixels = transforms.warp(image, affine, size, half_pixel=not original)
        pixels = pixels.astype(np.float32) / 255
        if augment and config.color:
            pixels = transforms.jitter_color(pixels, rng)
        targets = build_targets(
            transforms.transform_boxes(record.boxes, affine) / STRIDE,
            record.labels,
            record.pairs,
            self.vocabulary.valid_pairs,
            (size[0] // STRIDE, size[1] // STRIDE),
            config.compat,
        )
        meta = {
            "file_name": record.file_name,
            "image_id": record.image_id,
            "width": width,
            "height": height,
            "affine": affine.astype(np.float32),
        }
        return {"image": transforms.normalize(pixels), **targets, "meta": meta}

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


def collate(samples: list[dict] | UserError) -> Batch | UserError:
    """Stack samples; point targets get their image's number as first column."""
    if isinstance(samples, UserError):
        return samples
    images = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    joined = {}
    for name in samples[0]:
        if name in ("image", "meta"):
            continue
        parts = [sample[name] for sample in samples]
        if name in ("objects", "interactions", "hard_negatives"):
            parts = [np.insert(part, 0, number, axis=1) for number, part in enumerate(parts)]
        joined[name] = torch.from_numpy(np.concatenate(parts))
    return Batch(
        images=images.permute(0, 3, 1, 2), meta=[sample["meta"] for sample in samples], **joined
    )


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


class HOILoader(DataLoader):
    """A DataLoader of `Batch`es whose workers' UserErrors arrive with their message alone."""

    batch_sampler: EpochBatches

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """See `EpochBatches.set_epoch`; call it before each iteration of a training loader."""
        self.batch_sampler.set_epoch(epoch, start)

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def make_loader(
    records: list[ImageRecord],
    vocabulary: Vocabulary,
    config: Config,
    *,
    train: bool,
    rank: int = 0,
    world_size: int = 1,
    problems: Problems | None = None,
) -> HOILoader:
    """The loader of one split for process `rank` of `world_size`.

    Batches depend on config.train.seed and the epoch, not on the number of workers. A training
    loader resumes in the middle of an epoch with `set_epoch(epoch, start)`, which loads none of the
    images before.
    """
    seed, workers = config.train.seed, config.data.workers
    dataset = HOIDataset(
        records, vocabulary, config.data, train=train, seed=seed, problems=problems
    )
    batches = EpochBatches(
        len(dataset),
        config.train.batch_size if train else config.eval.batch_size,
        train=train,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return HOILoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        persistent_workers=train and workers > 0,
    )


def _start_worker(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the trainer ends its workers
    cv2.setNumThreads(0)  # as many threads as workers is enough; OpenCV's pool dies in a fork

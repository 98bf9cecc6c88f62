"""Which images make up each batch: a function of seed, epoch, step and rank, and of nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler


@dataclass
class EpochBatches(Sampler[list[int]]):
    """Batches of image indices of one process for one epoch, from optimizer step `start` on.

    Every epoch is a new permutation of all the images. It is filled up from its own beginning to
    a whole number of optimizer steps, so that all processes make equally many steps of full
    batches and no image is left out.
    """

    images: int
    batch_size: int
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    seed: int = 0
    epoch: int = 0
    start: int = 0

    @property
    def steps(self) -> int:
        """Optimizer steps of a whole epoch."""
        return -(-self.images // (self.batch_size * self.accumulate * self.world_size))

    def __len__(self) -> int:
        """Batches from `start` on."""
        return (self.steps - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.images, generator=generator)
        wanted = self.steps * self.accumulate * self.world_size * self.batch_size
        order = order.repeat(-(-wanted // self.images))[:wanted]
        batches = order.view(-1, self.world_size, self.batch_size)[:, self.rank]
        yield from batches[self.start * self.accumulate :].tolist()

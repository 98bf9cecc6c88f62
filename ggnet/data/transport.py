"""How batches come from loader processes: through shared memory, or through a pipe without it.

Shared memory (/dev/shm) needs no copy, but a container has 64 MB of it unless told otherwise, and
every tensor in it takes a file descriptor. torch's queue puts tensors there in a thread of its own,
where an error loses the batch and training waits for ever; here that happens before.
"""

import os
import pickle
import resource
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ggnet.data.batch import Batch, ImageBatch

SHARED_MEMORY = "/dev/shm"
OTHER_FILES = 64  # descriptors that the rest of a training opens
FEW_FILES = "the limit of {limit} open files is low (`ulimit -n 4096` raises it)"


@dataclass
class Piped:
    """A batch as bytes, and why it does not come through shared memory."""

    content: bytes
    reason: str

    def unpack(self) -> ImageBatch:
        """The batch."""
        return pickle.loads(self.content)  # of our own child

    def pin_memory(self) -> ImageBatch:
        """The batch in page-locked memory, as the loader asks for where there is a GPU."""
        return self.unpack().pin_memory()


class Sender:
    """In a loader process: batches made by `collate`, ready for the queue.

    Args:
        files: how many descriptors batches on their way may take; too many are not tried, as it is
            the receiver that would fail.
    """

    def __init__(self, collate: Callable, files: int):
        self.collate = collate
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        short = limit != resource.RLIM_INFINITY and _open_files() + files + OTHER_FILES > limit
        self.reason = FEW_FILES.format(limit=limit) if short else None

    def __call__(self, samples: list) -> object:
        """As `collate`."""
        batch = self.collate(samples)
        if torch.utils.data.get_worker_info() is None or not isinstance(batch, ImageBatch):
            return batch
        if self.reason is not None:
            return _piped(batch, self.reason)
        try:
            for field in fields(batch):
                if isinstance(value := getattr(batch, field.name), Tensor):
                    value.share_memory_()
            return batch
        except RuntimeError as error:
            return _piped(batch, _why(error))


def tensors_in_flight(workers: int, prefetch: int = 2) -> int:
    """How many tensors are on their way at most: those of batches ahead, of the batch in use and of
    the one that replaces it."""
    return (workers * prefetch + 2) * sum(field.name != "meta" for field in fields(Batch))


def _piped(batch: ImageBatch, reason: str) -> Piped:
    return Piped(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL), reason)


def _why(error: RuntimeError) -> str:
    if "open files" in str(error):
        return FEW_FILES.format(limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    size = "unknown"
    try:
        stats = os.statvfs(SHARED_MEMORY)
        size = f"{stats.f_blocks * stats.f_frsize / 2**20:.0f} MB"
    except OSError:
        pass
    return (
        f"{SHARED_MEMORY} is too small for the batches (its size is {size}; give a container more "
        "with `docker run --ipc=host` or `--shm-size=8g`)"
    )


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux
        return 0

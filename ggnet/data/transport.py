"""How batches come from loader processes: through shared memory, or through a pipe without it.

Shared memory (/dev/shm) needs no copy, but a container has 64 MB of it unless told otherwise, and
every tensor in it takes a file descriptor. torch's queue puts tensors there in a thread of its own,
where an error loses the batch and training waits for ever; here that happens before.
"""

import errno
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
        tensors = [t for f in fields(batch) if isinstance(t := getattr(batch, f.name), Tensor)]
        try:
            for tensor in tensors:
                tensor.share_memory_()
            return batch
        except RuntimeError as error:
            return _piped(batch, _why(error, sum(tensor.nbytes for tensor in tensors)))


def tensors_in_flight(workers: int, prefetch: int = 2) -> int:
    """How many tensors are on their way at most: those of batches ahead, of the batch in use and of
    the one that replaces it."""
    return (workers * prefetch + 2) * (len(fields(Batch)) - len(("meta", "seconds")))


def _piped(batch: ImageBatch, reason: str) -> Piped:
    return Piped(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL), reason)


def _why(error: RuntimeError, needed: int) -> str:
    """What is wrong with shared memory, as far as one can find out, and what helps.

    Args:
        needed: bytes of the batch that it did not take.
    """
    if "open files" in str(error):
        return FEW_FILES.format(limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    try:
        stats = os.statvfs(SHARED_MEMORY)
    except OSError as missing:
        return f"{SHARED_MEMORY} cannot be used ({missing.strerror}); mount a tmpfs there"
    size, free = (blocks * stats.f_frsize for blocks in (stats.f_blocks, stats.f_bavail))
    if free >= needed and f"({errno.ENOSPC})" not in str(error):
        return f"{SHARED_MEMORY} cannot be used ({' '.join(str(error).split())})"
    sizes = f"its size is {_mb(size)}, {_mb(free)} are free, a batch has {_mb(needed)}"
    return (
        f"{SHARED_MEMORY} is too small for the batches ({sizes}; give a container more "
        "with `docker run --ipc=host` or `--shm-size=8g`, or delete what fills it)"
    )


def _mb(count: int) -> str:
    return f"{count / 2**20:.3g} MB"


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # not Linux
        return 0

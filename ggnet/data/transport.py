"""How batches come from loader processes: through shared memory, or through a pipe without it.

Shared memory (/dev/shm) needs no copy, but a container has 64 MB of it unless told otherwise, and
every piece of it takes a file descriptor, which the receiver has to ask the loader process for:
milliseconds where that one is busy. So a batch is one piece. torch's queue would put tensors there
in a thread of its own, where an error loses the batch and training waits for ever.
"""

import errno
import os
import pickle
import resource
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ggnet.data.batch import ImageBatch

SHARED_MEMORY = "/dev/shm"
ALIGNMENT = 64  # bytes, of each tensor in it
OTHER_FILES = 64  # descriptors that the rest of a training opens
FEW_FILES = "the limit of {limit} open files is low (`ulimit -n 4096` raises it)"


@dataclass
class Place:
    """Where a tensor lies in a piece of memory."""

    offset: int  # bytes
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]

    def of(self, memory: Tensor) -> Tensor:
        """The tensor there."""
        count = self.shape.numel() * self.dtype.itemsize
        part = memory[self.offset : self.offset + count].view(self.dtype)
        return part.as_strided(self.shape, self.stride)


class Packed:
    """A batch of which all tensors lie in one piece of shared memory."""

    def __init__(self, batch: ImageBatch):
        self.places, size = {}, 0
        for name, tensor in tensors_of(batch).items():
            stride = torch.empty_like(tensor, device="meta").stride()  # without gaps
            self.places[name] = Place(size, tensor.dtype, tensor.shape, stride)
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        memory = torch.UntypedStorage._new_shared(max(size, 1))
        self.memory = torch.empty(0, dtype=torch.uint8).set_(memory)
        for name, place in self.places.items():
            place.of(self.memory).copy_(getattr(batch, name))
        self.rest = replace(batch, **dict.fromkeys(self.places))

    def unpack(self) -> ImageBatch:
        """The batch; its tensors keep the memory."""
        tensors = {name: place.of(self.memory) for name, place in self.places.items()}
        return replace(self.rest, **tensors)

    def pin_memory(self) -> ImageBatch:
        """The batch in page-locked memory, as the loader asks for where there is a GPU."""
        self.memory = self.memory.pin_memory()
        return self.unpack()


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
            return Packed(batch)
        except RuntimeError as error:
            needed = sum(tensor.nbytes for tensor in tensors_of(batch).values())
            return _piped(batch, _why(error, needed))


def batches_in_flight(workers: int, prefetch: int = 2) -> int:
    """How many are there at most: those ahead, the one in use and the one that replaces it."""
    return workers * prefetch + 2


def tensors_of(batch: ImageBatch) -> dict[str, Tensor]:
    """The tensors of a batch by their field's name."""
    values = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


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

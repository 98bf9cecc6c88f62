"""How batches come from loader processes: through memory that both map, or through a pipe.

The memory is a file without a name (memfd), not one in /dev/shm, of which a container has 64 MB
unless told otherwise. The receiver opens it by /proc/PID/fd: torch's tensors in a queue ask the
loader process for each piece of memory, milliseconds where that one is busy. torch's queue would
also put them there in a thread of its own, where an error loses the batch and training waits for
ever.
"""

import errno
import mmap
import os
import pickle
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from multiprocessing import parent_process

import torch
from torch import Tensor

from ggnet.data.batch import ImageBatch

ALIGNMENT = 64  # bytes, of each tensor in the memory
OPENED = "/proc/{}/fd/{}"  # the file of a process
FOLDER = "/proc/{}/cwd"  # whom this tells something may open the process's files
GONE = "DataLoader worker (pid {}) exited unexpectedly"  # torch's words


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
    """A batch of which all tensors lie in one piece of memory, this process's open file.

    Raises:
        OSError: there can be no such file.
    """

    def __init__(self, batch: ImageBatch):
        self.places, size = {}, 0
        for name, tensor in tensors_of(batch).items():
            stride = torch.empty_like(tensor, device="meta").stride()  # without gaps
            self.places[name] = Place(size, tensor.dtype, tensor.shape, stride)
            size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self.rest = replace(batch, **dict.fromkeys(self.places))
        self.process, self.size = os.getpid(), max(size, 1)
        self.file = os.memfd_create("ggnet-batch")
        try:
            os.posix_fallocate(self.file, 0, self.size)
            self.inode = os.fstat(self.file).st_ino
            memory = _memory(self.file, self.size)
        except OSError:
            os.close(self.file)
            raise
        for name, place in self.places.items():
            place.of(memory).copy_(getattr(batch, name))

    def unpack(self, *, pin: bool = False) -> ImageBatch:
        """The batch; its tensors keep the memory.

        Args:
            pin: page-locked memory.

        Raises:
            RuntimeError: the loader process is gone, or has closed the file.
            OSError: the memory cannot be opened.
        """
        try:
            file = os.open(OPENED.format(self.process, self.file), os.O_RDWR)
        except (FileNotFoundError, PermissionError):  # the second until a dead one is waited for
            raise RuntimeError(GONE.format(self.process)) from None
        try:
            if os.fstat(file).st_ino != self.inode:  # never another batch's images
                raise RuntimeError("a loader process has closed a batch before its time")
            memory = _memory(file, self.size)
        finally:
            os.close(file)
        memory = memory.pin_memory() if pin else memory
        tensors = {name: place.of(memory) for name, place in self.places.items()}
        return replace(self.rest, **tensors)

    def pin_memory(self) -> ImageBatch:
        """The batch in page-locked memory, as the loader asks for where there is a GPU."""
        return self.unpack(pin=True)


@dataclass
class Piped:
    """A batch as bytes, and why it does not come through memory."""

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

    A file stays open until the receiver has opened it, which it does as it hands the batch over and
    asks for the one `prefetch` later. Two more are kept than that takes.

    Args:
        prefetch: how many batches a loader process makes ahead.
    """

    def __init__(self, collate: Callable, prefetch: int):
        self.collate = collate
        self.open = prefetch + 2
        self.files: deque[int] = deque()

    def __call__(self, samples: list) -> object:
        """As `collate`."""
        batch = self.collate(samples)
        if torch.utils.data.get_worker_info() is None or not isinstance(batch, ImageBatch):
            return batch
        if (reason := _why_not()) is not None:
            return _piped(batch, reason)
        try:
            packed = Packed(batch)
        except OSError as error:
            return _piped(batch, _why(error))
        self.files.append(packed.file)
        if len(self.files) > self.open:
            os.close(self.files.popleft())
        return packed


def tensors_of(batch: ImageBatch) -> dict[str, Tensor]:
    """The tensors of a batch by their field's name."""
    values = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _piped(batch: ImageBatch, reason: str) -> Piped:
    return Piped(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL), reason)


@cache
def _why_not() -> str | None:
    """What is in the way of such memory, asked once in a loader process.

    Whether the receiver may open this process's files is tried the other way round, which takes the
    same right: then an error of its own can only mean that this process is gone.
    """
    if not hasattr(os, "memfd_create"):
        return "this system has no files without a name (memfd)"
    try:
        file = os.memfd_create("ggnet-batch")
        try:
            os.close(os.open(OPENED.format(os.getpid(), file), os.O_RDWR))
        finally:
            os.close(file)
        os.stat(FOLDER.format(parent_process().pid))
    except OSError as error:
        return _why(error)
    return None


def _why(error: OSError) -> str:
    more = " (`ulimit -n 4096` raises the limit)" if error.errno == errno.EMFILE else ""
    return f"there is no memory to map: {error.strerror}{more}"


def _memory(file: int, size: int) -> Tensor:
    """(size,) uint8, the file itself."""
    return torch.frombuffer(mmap.mmap(file, size), dtype=torch.uint8)

"""One process in a run folder: two would overwrite each other's checkpoints."""

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ggnet.errors import UserError

LOCK = "run.lock"
logger = logging.getLogger("ggnet")


class RunFolder:
    """A run folder that no other process writes to, from `open` until `close` or death.

    The lock is the kernel's (POSIX), so a process that was killed leaves none behind; what the file
    holds only says whose it is.
    """

    def __init__(self, path: Path):
        self.path, self._file = path, None  # the file's descriptor

    def open(self) -> None:
        """Take the folder, making it if need be.

        Raises:
            UserError: another process has it, or it cannot be made.
        """
        while not self.is_held():  # not so, either, if its owner has just removed the file
            self.close()
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise UserError(
                    f"cannot write to the run folder {self.path}: {error.strerror}. Choose another "
                    "folder with --out"
                ) from error
            self._lock(self._file)
        with suppress(OSError):  # a full disk: the first checkpoint will say so
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def is_held(self) -> bool:
        """Whether this process has the folder; no more when it was deleted."""
        try:
            there = os.stat(self.path / LOCK)
        except OSError:
            return False
        return self._file is not None and os.path.samestat(os.fstat(self._file), there)

    def close(self) -> None:
        """Leave the folder to others."""
        if self._file is None:
            return
        if self.is_held():
            with suppress(OSError):
                os.unlink(self.path / LOCK)
        os.close(self._file)
        self._file = None

    def _lock(self, file: int) -> None:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                reason = "%s cannot be locked (%s): see to it that no other process trains in it"
                logger.warning(reason, self.path, error.strerror)
                return
            owner = os.pread(file, 500, 0).decode(errors="replace") or "another process"
            os.close(file)
            self._file = None
            raise UserError(
                f"{owner} is training in {self.path}. Wait for its end, stop it, or choose another "
                "folder with --out"
            ) from None


_held: dict[Path, RunFolder] = {}


@contextmanager
def hold_run(path: str | Path) -> Iterator[RunFolder]:
    """The run folder, for this process alone while the block lasts; blocks may nest.

    Raises:
        UserError: as `RunFolder.open`.
    """
    key = Path(path).resolve()
    if key in _held:
        yield _held[key]
        return
    folder = RunFolder(Path(path))
    folder.open()
    _held[key] = folder
    try:
        yield folder
    finally:
        del _held[key]
        folder.close()

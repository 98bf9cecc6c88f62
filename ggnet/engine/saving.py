"""Checkpoints written by a thread while training goes on."""

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from ggnet.engine.checkpoint import save_checkpoint
from ggnet.errors import UserError


class CheckpointWriter:
    """Writes checkpoints one after the other, in the order in which they were given.

    What is written is the state when `write` was called: tensors are copied to the host before it
    returns. A file that is still to be written when its next state comes is waited for, so that
    there is at most one copy of each in memory.
    """

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: dict[Path, Future] = {}

    def write(self, path: Path, state: dict[str, Any]) -> None:
        """Write `state` as `save_checkpoint` does, some time soon.

        Raises:
            UserError: an earlier one could not be written.
        """
        if path in self._pending:
            self._pending.pop(path).result()
        self._pending[path] = self._thread.submit(_save, path, on_host(state))

    def check(self) -> None:
        """Raise a UserError if a checkpoint could not be written; do not wait."""
        for path in [path for path, future in self._pending.items() if future.done()]:
            self._pending.pop(path).result()

    def wait(self) -> None:
        """Return when all is written; raises as `check`."""
        for path in list(self._pending):
            self._pending.pop(path).result()


def _save(path: Path, state: dict[str, Any]) -> None:
    try:
        save_checkpoint(path, state)
    except UserError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        save_checkpoint(path, state)  # the folder was deleted meanwhile: it is made again


def on_host(value: Any) -> Any:
    """A copy of nested dicts, lists and tuples whose tensors are others, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # a state dict is one with attributes
        for key, item in value.items():
            copied[key] = on_host(item)
        return copied
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(item) for item in value)
    return value

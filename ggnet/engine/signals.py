"""Ctrl-C and SIGTERM: finish the step, save, leave; the second time leave at once."""

import os
import signal
import time

INTERRUPTED = 130  # the shell's exit status for "ended by Ctrl-C"


class Interrupted(Exception):
    """Work ended early because the user asked for it; what there was is saved."""


class StopRequest:
    """While entered, SIGINT and SIGTERM set `requested` instead of raising.

    torchrun forwards the signal that a terminal has already sent to the whole process group;
    `echo_seconds` is how long a repetition counts as that echo.
    """

    def __init__(self, announce: bool = True, echo_seconds: float = 0.0):
        self.requested = False
        self._announce = announce
        self._echo_seconds = echo_seconds
        self._time = 0.0
        self._pid = os.getpid()
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if os.getpid() != self._pid:
            return  # a data-loading process: the trainer ends it
        if self.requested:
            if time.monotonic() - self._time >= self._echo_seconds:
                os._exit(INTERRUPTED)
            return
        self.requested = True
        self._time = time.monotonic()
        if self._announce:
            # os.write: print is not safe inside a signal handler
            os.write(2, b"\nStopping after this step; Ctrl-C again quits without saving.\n")

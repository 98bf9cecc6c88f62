"""How far a long piece of work is: a bar on a terminal, elsewhere a line a minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

LINE_SECONDS = 60.0


@contextmanager
def progress(text: str, console: Console | None = None) -> Iterator[Callable[..., None]]:
    """Gives what is to be called with (done, in all), as often as one likes; a third argument is a
    note about what is being done, e.g. "frame 7".

    Args:
        text: what is done, e.g. "reading images".
        console: where it is shown; default: stderr.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(text, console)
        return
    # Where stdout is a file, what is printed meanwhile goes there, and not to the bar's console.
    with Progress(console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(text)

        def show(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, description=_with(text, note))

        yield show


class _Lines:
    def __init__(self, text: str, console: Console):
        self.text, self.console = text, console
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        line = _with(f"{self.text}: {done} of {total}", note)
        if done:
            left = (now - self._start) / done * (total - done) / 60
            line += f", about {left:.0f} min left"
        self.console.print(line, soft_wrap=True, highlight=False)


def _with(text: str, note: str) -> str:
    return f"{text}, {note}" if note else text

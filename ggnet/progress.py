"""How far a long piece of work is: a bar on a terminal, elsewhere a line a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

LINE_SECONDS = 60.0


@contextmanager
def progress(text: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Gives what is to be called with (done, in all), as often as one likes.

    Args:
        text: what is done, e.g. "reading images".
        console: where it is shown; default: stderr.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(text, console)
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(text)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    def __init__(self, text: str, console: Console):
        self.text, self.console = text, console
        self._start = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        left = (now - self._start) / max(done, 1) * (total - done) / 60
        self.console.print(
            f"{self.text}: {done} of {total}, about {left:.0f} min left",
            soft_wrap=True,
            highlight=False,
        )

"""What a run tells: a progress bar or lines on screen, and results.csv."""

import csv
import math
import time
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from ggnet.errors import reading
from ggnet.io import atomic_write

BAR_SECONDS, LINE_SECONDS = 1.0, 12.0  # between updates on a terminal, and elsewhere


class TrainingDisplay:
    """Progress of training: a live bar on a terminal, elsewhere a line every `LINE_SECONDS`.

    `due()` says when to gather figures, which on a GPU waits for the device, and `show` shows them.
    """

    def __init__(self, console: Console, total_steps: int, done: int):
        self.console = console
        self.seconds = BAR_SECONDS if console.is_terminal else LINE_SECONDS
        self._start = self._last = time.monotonic()
        self._first, self._total = done, total_steps
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(20, complete_style="cyan"),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self._task = self._bar.add_task("starting", total=total_steps, completed=done, figures="")
        self._live = Live(console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> "TrainingDisplay":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        self._live.stop()

    def due(self) -> bool:
        """Whether it is time for the next figures."""
        return time.monotonic() - self._last >= self.seconds

    def show(self, done: int, epoch: str, losses: dict[str, float], figures: list[str]) -> None:
        """Show the state after `done` steps of the run; `losses` are means since the last time."""
        self._last = time.monotonic()
        each = (self._last - self._start) / max(done - self._first, 1)
        figures = [*figures, f"{_duration(each * (self._total - done))} left"]
        terms = "  ".join(f"{name} {value:.3g}" for name, value in losses.items())
        if self.console.is_terminal:
            text = "  ".join(figures)
            self._bar.update(self._task, description=epoch, completed=done, figures=text)
            self._live.update(Group(self._bar, Text(terms, style="dim")))
        else:
            percent = f"{100 * done / self._total:.0f} %"
            line = "  ".join([epoch, percent, terms, *figures])
            self.console.print(line, soft_wrap=True, highlight=False)


class ResultsLog:
    """results.csv: one row an epoch, the whole file rewritten atomically each time.

    Epochs from `first_epoch` on that an interrupted run wrote are dropped, so none appears twice.
    """

    def __init__(self, path: Path, first_epoch: int = 0):
        self.path = path
        self._rows: list[dict[str, str]] = []
        if first_epoch and path.exists():
            with (
                reading(path, "the table of the run's epochs, or no such file"),
                open(path, newline="", encoding="utf-8") as file,
            ):
                self._rows = [
                    row for row in csv.DictReader(file) if int(row["epoch"]) <= first_epoch
                ]

    def add(self, row: dict[str, float]) -> None:
        """Append an epoch's figures; those that only some epochs have are empty cells elsewhere."""
        self._rows.append({name: _cell(value) for name, value in row.items()})
        names = dict.fromkeys(name for row in sorted(self._rows, key=len)[::-1] for name in row)
        with atomic_write(self.path, "w") as file:
            writer = csv.DictWriter(file, list(names), lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(self._rows)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _cell(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""`ggnet train`."""

import argparse
import re
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ggnet.commands.common import add_overrides, is_main
from ggnet.errors import UserError

if TYPE_CHECKING:
    from ggnet.config import Config
    from ggnet.eval.report import Report

CONFIGS = Path(__file__).parents[1] / "configs"
SUMMARY = "train a network, then evaluate it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _presets()
    config = parser.add_argument(
        "--config", help="preset or .yaml file (default: the schema's defaults)"
    )
    config.completer = _config_names
    parser.add_argument("--row", metavar="TABLE/ROW", help="a row of the paper, see docs/paper.md")
    parser.add_argument("--data", help="with --row, whose preset: scenes, vcoco or hico")
    parser.add_argument("--flavour", help="with --row: paper or original, where they differ")
    parser.add_argument("--out", help="run folder (default: runs/NAME, numbered if taken)")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration and stop"
    )
    add_overrides(parser)


def _config_names(prefix: str, **_) -> list[str]:
    """What `ggnet completion` offers for --config."""
    from glob import escape, glob

    files = glob(f"{escape(prefix)}*.yaml") + [f"{x}/" for x in glob(f"{escape(prefix)}*/")]
    return [path.stem for path in CONFIGS.glob("*.yaml")] + files


def _presets() -> str:
    """Every preset with the first sentence of its own comment."""
    lines = ["presets:"]
    for path in sorted(CONFIGS.glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        comment = " ".join(
            line[1:].strip() for line in takewhile(lambda x: x.startswith("#"), text.splitlines())
        )
        lines.append(f"  {path.stem:<18}{re.split(r'[.:](?= |$)', comment)[0]}")
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int | None:
    """See `ggnet.commands`."""
    from ggnet.config import describe, load_config

    if args.resume and args.row:
        raise UserError("--resume goes on with the run's own settings; leave out --row")
    name = _take_row(args)
    if args.print_config:
        print(describe(load_config(args.config, args.overrides)), end="")
        return None
    if args.resume and args.out:
        raise UserError("--resume goes on in the run's own folder; leave out --out")
    if args.resume:
        return _resume(args)
    config = load_config(args.config, args.overrides)

    from ggnet.engine.runs import free_folder

    folder = Path(args.out) if args.out else free_folder(Path("runs"), name)
    return _train(folder, config, None)


def _take_row(args: argparse.Namespace) -> str | None:
    """Put a row's preset and settings where the user's own go; the name for a run folder."""
    if not args.row:
        if args.data or args.flavour:
            raise UserError("--flavour and --data say how a row is meant: give --row TABLE/ROW")
        return args.config
    from ggnet.ablate.rows import preset, row_overrides, split_name

    table, row = split_name(args.row)
    data, source = preset(table, args.data)
    args.config = args.config or source
    args.overrides[:0] = row_overrides(args.row, data, args.flavour)
    return f"{table}-{row}".replace(".", "_")


def _resume(args: argparse.Namespace) -> int | None:
    from ggnet.engine.checkpoint import LAST, find_checkpoint
    from ggnet.engine.lock import hold_run
    from ggnet.engine.plots import is_plotted
    from ggnet.engine.runs import FinishedRun, resume_run, stored_report

    folder = find_checkpoint(args.resume, prefer=LAST).parent
    # Held before it is read: another process may be about to write it.
    with hold_run(folder) if is_main() else nullcontext():
        try:
            folder, config, state = resume_run(args.resume, args.config, args.overrides)
        except FinishedRun as run:
            if is_plotted(folder):
                raise
            if is_main():  # it was killed after its last checkpoint
                _show(folder, stored_report(folder, run.config))
            return None
        return _train(folder, config, state)


def _train(folder: Path, config: "Config", state: dict | None) -> int | None:
    from ggnet.engine.signals import INTERRUPTED, Interrupted
    from ggnet.engine.trainer import train

    try:
        report = train(config, folder, resume=state)
    except Interrupted:
        if is_main():
            print(f"Stopped and saved. Go on with: ggnet train --resume {folder}")
        return INTERRUPTED
    if is_main():
        _show(folder, report)
    return None


def _show(folder: Path, report: "Report | None") -> None:
    """Plot what a finished run has come to, and print it."""
    from rich.console import Console

    from ggnet.engine.plots import plot_report, plot_training

    console = Console()
    if report is not None:
        plot_report(report, folder)
        console.print(report.result.table())
    plot_training(folder)
    console.print(f"Results in {folder}", soft_wrap=True, highlight=False)

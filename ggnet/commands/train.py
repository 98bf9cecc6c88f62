"""`ggnet train`."""

import argparse
from pathlib import Path

from ggnet.commands.common import add_overrides, is_main
from ggnet.errors import UserError

SUMMARY = "train a network, then evaluate it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("--config", help="preset or .yaml file (default: the schema's defaults)")
    parser.add_argument("--out", help="run folder (default: runs/NAME, numbered if taken)")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration and stop"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int | None:
    """See `ggnet.commands`."""
    from ggnet.config import describe, load_config

    if args.print_config:
        print(describe(load_config(args.config, args.overrides)), end="")
        return None
    if args.resume and args.out:
        raise UserError("--resume goes on in the run's own folder; leave out --out")
    config = None if args.resume else load_config(args.config, args.overrides)

    from rich.console import Console

    from ggnet.engine.plots import plot_report, plot_training
    from ggnet.engine.runs import free_folder, resume_run
    from ggnet.engine.signals import INTERRUPTED, Interrupted
    from ggnet.engine.trainer import train

    if config is None:
        folder, config, state = resume_run(args.resume, args.config, args.overrides)
    else:
        folder = Path(args.out) if args.out else free_folder(Path("runs"), args.config)
        state = None
    console = Console()
    try:
        report = train(config, folder, resume=state, console=console)
    except Interrupted:
        if is_main():
            print(f"Stopped and saved. Go on with: ggnet train --resume {folder}")
        return INTERRUPTED
    if is_main():
        plot_training(folder)
        if report is not None:
            plot_report(report, folder)
            console.print(report.result.table())
        console.print(f"Results in {folder}", soft_wrap=True, highlight=False)
    return None

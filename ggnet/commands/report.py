"""`ggnet report`."""

import argparse
from pathlib import Path

from ggnet.commands.common import OVERRIDE, add_overrides
from ggnet.errors import UserError

SUMMARY = "an HTML page of an evaluation: figures, curves, and every image to look through"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="an evaluated run; not needed with --predictions"
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="show this file (ours, PPDM's JSON or HICO-DET's .mat) for the dataset data.root",
    )
    parser.add_argument("--split", help="with --predictions (default: test, or val without a test)")
    parser.add_argument(
        "--no-actpoints",
        action="store_true",
        help="do not run the network over the images to show where it looked",
    )
    add_page_arguments(parser, "report.html in RUN, or here with --predictions")
    add_overrides(parser)


def add_page_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Where a page goes, and its pictures."""
    parser.add_argument("--out", metavar="HTML", help=f"file to write (default: {default})")
    parser.add_argument(
        "--embed",
        action="store_true",
        help="put the pictures into the page (default: beside it, in NAME_files)",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="longest side of a picture (default: 1024, with --embed 480)",
    )


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    if args.run and OVERRIDE.fullmatch(args.run):
        args.overrides.insert(0, args.run)
        args.run = None
    if bool(args.run) == bool(args.predictions):
        raise UserError("give either an evaluated run, or --predictions FILE")
    if args.run and args.split:
        raise UserError(
            "--split goes with --predictions; a run's report is of the split that it was evaluated "
            "on. `ggnet eval RUN --split ...` evaluates another one"
        )

    from ggnet.config import load_config
    from ggnet.engine.checkpoint import find_checkpoint
    from ggnet.report.make import PAGE, report_file, report_run
    from ggnet.report.write import Page

    if args.run:
        out = args.out or find_checkpoint(args.run).parent / PAGE
        page = Page(out, embed=args.embed, side=args.size)
        path = report_run(args.run, args.overrides, page, actpoints=not args.no_actpoints)
    else:
        page = Page(args.out or PAGE, embed=args.embed, side=args.size)
        config = load_config(None, args.overrides)
        path = report_file(Path(args.predictions), config, args.split, page)
    say_written(path, args.embed)


def say_written(path: Path, embedded: bool) -> None:
    """Tell where a page is."""
    beside = "" if embedded else f", with its pictures in {path.stem}_files beside it"
    print(f"{path}{beside}")

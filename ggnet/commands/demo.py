"""`ggnet demo`."""

import argparse
from pathlib import Path

from ggnet.commands.common import add_overrides

SUMMARY = "generate, train, evaluate and draw, in one go"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("--out", default="runs/demo", help="run folder (default: %(default)s)")
    add_overrides(parser)


def run(args: argparse.Namespace) -> int | None:
    """See `ggnet.commands`."""
    from ggnet.demo import demo
    from ggnet.engine.signals import INTERRUPTED, Interrupted

    try:
        demo(Path(args.out), args.overrides)
    except Interrupted:
        print("Stopped. The same command goes on from here.")
        return INTERRUPTED
    return None

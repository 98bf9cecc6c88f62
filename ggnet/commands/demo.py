"""`ggnet demo`."""

import argparse
from pathlib import Path

from ggnet.commands.common import add_overrides

SUMMARY = "generate, train, evaluate and draw, in one go"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("--out", default="runs/demo", help="run folder (default: %(default)s)")
    parser.add_argument(
        "--print-config", action="store_true", help="print the configuration and stop"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int | None:
    """See `ggnet.commands`."""
    if args.print_config:
        from ggnet.config import DemoConfig, describe, load_config

        print(describe(load_config("demo", args.overrides, DemoConfig)), end="")
        return None

    from ggnet.demo import demo
    from ggnet.engine.signals import INTERRUPTED, Interrupted

    try:
        demo(Path(args.out), args.overrides)
    except Interrupted:
        print("Stopped. The same command goes on from here.")
        return INTERRUPTED
    return None

"""`ggnet env`."""

import argparse

from ggnet.commands.common import USER_ERROR

SUMMARY = "what is installed, compiled and usable, and why not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""


def run(args: argparse.Namespace) -> int:
    """See `ggnet.commands`."""
    from rich.console import Console

    from ggnet.environment import report

    return 0 if report(Console()) else USER_ERROR

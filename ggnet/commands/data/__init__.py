"""`ggnet data`: commands about datasets."""

import argparse

from ggnet.commands.common import add_commands

SUMMARY = "make, check, import and describe datasets"
COMMANDS = ("generate", "verify", "convert", "stats", "browse")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    add_commands(parser, __name__, COMMANDS)

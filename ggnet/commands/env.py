"""`ggnet env`."""

import argparse

from ggnet.commands.common import USER_ERROR

SUMMARY = "what is installed, compiled and usable, and why not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("--json", action="store_true", help="print it as JSON, and nothing else")


def run(args: argparse.Namespace) -> int:
    """See `ggnet.commands`."""
    import json

    from rich.console import Console

    from ggnet.environment import facts, report

    if not args.json:
        return 0 if report(Console()) else USER_ERROR
    found = facts()
    print(json.dumps(found, indent=1))
    return 0 if found["usable"] else USER_ERROR

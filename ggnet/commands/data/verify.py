"""`ggnet data verify`."""

import argparse

from ggnet.commands.common import SHOWN

SUMMARY = "find broken records and images (exit status 1 if any)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("root", help="dataset folder")
    parser.add_argument("--no-images", action="store_true", help="do not decode the images")
    parser.add_argument(
        "--all", action="store_true", help=f"name every record, not the first {SHOWN} of a kind"
    )


def run(args: argparse.Namespace) -> int:
    """See `ggnet.commands`."""
    from rich.console import Console

    from ggnet.data.tools import verify_dataset
    from ggnet.progress import progress

    with progress("reading images") as told:
        result = verify_dataset(args.root, read_images=not args.no_images, progress=told)
    console = Console()
    console.print(result.table())
    if result.ok:
        console.print("no problems")
        return 0
    console.print(result.problems.table())
    print(*result.problems.lines(None if args.all else SHOWN), sep="\n")
    if not args.all and max(result.problems.counts.values()) > SHOWN:
        print("--all names every record.")
    return 1

"""`ggnet compare`."""

import argparse
from pathlib import Path

from ggnet.errors import UserError

SUMMARY = "draw what several runs say about the same images, or their errors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that were evaluated")
    parser.add_argument(
        "--images", metavar="NAME,...", help="these (default: evenly spaced ones of the split)"
    )
    parser.add_argument(
        "--count", type=int, help="images, or errors of each kind (default: 6 and 4)"
    )
    parser.add_argument(
        "--top", type=int, help="triplets in a picture (default: as many as are annotated)"
    )
    parser.add_argument(
        "--failures",
        action="store_true",
        help="the most confident errors by kind: what was right in black, what was said in red",
    )
    parser.add_argument("--root", help="dataset folder (default: that of the first run)")
    parser.add_argument(
        "--out", default="runs/compare", help="folder of the pictures (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    if len(args.runs) < 2 and not args.failures:
        raise UserError("one run has nothing beside it: give two or more, or --failures")
    if args.failures and (args.images or args.top):
        raise UserError("--failures chooses its images itself: leave out --images and --top")
    for name in ("count", "top"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; expected at least 1")

    from ggnet.compare import compare, compare_failures, open_runs

    opened, out = open_runs(args.runs, args.root), Path(args.out)
    if args.failures:
        written = compare_failures(opened, out, count=args.count or 4)
    else:
        names = args.images.split(",") if args.images else None
        written = [compare(opened, out, count=args.count or 6, names=names, top=args.top)]
    print("\n".join(map(str, written)))

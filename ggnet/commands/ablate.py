"""`ggnet ablate`."""

import argparse
from pathlib import Path

from ggnet.commands.common import add_overrides

SUMMARY = "run a table's rows with several seeds and say what differs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("table", help="table1 to table7, or hna")
    parser.add_argument("--rows", metavar="ROW,...", help="only these (default: all)")
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="runs of each row (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time (default: the GPUs or processors)"
    )
    parser.add_argument(
        "--data", default="scenes", help="scenes, vcoco or hico: whose preset (default: scenes)"
    )
    parser.add_argument(
        "--root",
        help="dataset folder (default: the preset's; scenes with 1,500 test images)",
    )
    parser.add_argument("--config", help="preset or .yaml file in place of the table's preset")
    parser.add_argument("--flavour", help="paper or original, where they differ (docs/paper.md)")
    parser.add_argument(
        "--out", default="runs/ablate", help="folder of the study (default: %(default)s)"
    )
    parser.add_argument(
        "--detections",
        type=Path,
        metavar="FILE",
        help="another detector's boxes on the test images, in COCO's format for results, for the "
        "rows named -boxes",
    )
    parser.add_argument(
        "--take",
        type=Path,
        action="append",
        default=[],
        metavar="TABLE.json",
        help="results of another study with the same budget and dataset: its runs are taken as "
        "done, not made again; may be given several times, and the first that has a run counts",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="show the runs, their time and memory, and stop"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> int | None:
    """See `ggnet.commands`."""
    from ggnet.ablate.ablate import Wish, ablate
    from ggnet.engine.signals import INTERRUPTED, Interrupted

    wish = Wish(
        table=args.table,
        rows=args.rows.split(",") if args.rows else None,
        seeds=args.seeds,
        jobs=args.jobs,
        data=args.data,
        root=args.root,
        config=args.config,
        flavour=args.flavour,
        out=Path(args.out),
        detections=args.detections,
        take=args.take,
        overrides=args.overrides,
    )
    try:
        ablate(wish, dry=args.dry_run)
    except Interrupted:
        print("Stopped. The same command goes on from here.")
        return INTERRUPTED
    return None

"""`ggnet data generate`."""

import argparse

SUMMARY = "make the bundled dataset"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("root", nargs="?", default="data/scenes", help="default: %(default)s")
    parser.add_argument("--train", type=int, default=2000, help="images (default: %(default)s)")
    parser.add_argument("--test", type=int, default=500, help="images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--size", type=int, default=128, help="side in pixels (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from ggnet.data.scenes import generate
    from ggnet.progress import progress

    counts = {"train": args.train, "test": args.test}
    with progress("generating") as told:
        generate(args.root, **counts, seed=args.seed, size=args.size, progress=told)
    print(f"{args.train} training and {args.test} test images in {args.root}")

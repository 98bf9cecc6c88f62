"""`ggnet predict`."""

import argparse

from ggnet.viz.defaults import THRESHOLD, TOP

SUMMARY = "pictures and JSON for images of your own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("sources", metavar="IMAGE|FOLDER", nargs="+")
    parser.add_argument("--checkpoint", required=True, metavar="RUN|CHECKPOINT")
    parser.add_argument("--out", default="runs/predict", help="folder (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="lowest score drawn (%(default)s)"
    )
    parser.add_argument(
        "--top", type=int, default=TOP, help="most triplets drawn in a picture (%(default)s)"
    )
    parser.add_argument(
        "--actpoints", action="store_true", help="also draw where the best triplet's gaze lay"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> int:
    """See `ggnet.commands`."""
    from ggnet.engine.predict import predict

    return predict(
        args.sources,
        args.checkpoint,
        args.out,
        threshold=args.threshold,
        top=args.top,
        actpoints=args.actpoints,
        device=args.device,
    )

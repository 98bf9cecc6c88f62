"""`ggnet predict`."""

import argparse

from ggnet.viz.defaults import TOP

SUMMARY = "pictures and JSON for images, videos and cameras of your own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="image, video, folder, pattern such as 'a/*.jpg', list of paths (.txt), URL, camera:N",
    )
    parser.add_argument("--checkpoint", required=True, metavar="RUN|CHECKPOINT")
    parser.add_argument(
        "--out", help="folder of the results (default: the first free of runs/predict, -2, -3 ...)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="lowest score drawn (default: the run's own, where F1 was best)",
    )
    parser.add_argument(
        "--top", type=int, default=TOP, help="most triplets drawn in a picture (%(default)s)"
    )
    parser.add_argument(
        "--actpoints", action="store_true", help="also draw where the best triplet's gaze lay"
    )
    parser.add_argument("--recursive", action="store_true", help="search folders in folders")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a line of JSON for each image; files are written only with --out",
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dtype", default="float32", help="float32, bfloat16 or float16 (%(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    parser.add_argument("--capture", action="store_true", help="use CUDA graphs (on a GPU)")


def run(args: argparse.Namespace) -> int:
    """See `ggnet.commands`."""
    from pathlib import Path

    from ggnet.api.model import load
    from ggnet.api.predict import predict
    from ggnet.data.inputs import find_inputs
    from ggnet.engine.device import choose_device
    from ggnet.engine.runs import free_folder

    found = find_inputs(
        args.sources, recursive=args.recursive
    )  # quick, so a wrong path is said first
    model = load(
        args.checkpoint,
        device=choose_device(args.device, name="--device"),
        dtype=args.dtype,
        compile=args.compile,
        capture=args.capture,
    )
    out = args.out or (None if args.json else free_folder(Path("runs"), "predict"))
    return predict(
        found,
        model,
        out,
        threshold=args.threshold,
        top=args.top,
        actpoints=args.actpoints,
        batch=args.batch,
        print_json=args.json,
    )

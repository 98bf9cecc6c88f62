"""`ggnet export`."""

import argparse

from ggnet.errors import UserError

SUMMARY = "a trained network as ONNX, OpenVINO, AOTInductor or torch.export file, checked"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("checkpoint", metavar="RUN|CHECKPOINT")
    parser.add_argument("--format", required=True, help="onnx, openvino, torch or aoti")
    parser.add_argument(
        "--out", help="file to write (default: model with the format's suffix in RUN)"
    )
    parser.add_argument(
        "--size", metavar="HxW|any", help="of the input (default: as it was trained)"
    )
    parser.add_argument(
        "--batch", default="1", metavar="N|any", help="images at once (%(default)s)"
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="compare on these images (default: on noise)"
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="ONNX with convolutions in 8 bits; kept if the mean AP on the run's dataset falls by "
        "no more than 1",
    )
    parser.add_argument("--data", metavar="ROOT", help="dataset for --int8 (default: the run's)")


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from rich.console import Console
    from rich.table import Table

    from ggnet.engine.checkpoint import open_checkpoint
    from ggnet.export import EXPORTERS
    from ggnet.export.run import export, letterboxed

    if args.int8 and (args.format != "onnx" or args.images):
        raise UserError("--int8 goes with --format onnx, and with --data in place of --images")
    if args.data and not args.int8:
        raise UserError("--data goes with --int8")
    checkpoint = open_checkpoint(args.checkpoint)
    size = None if args.size in (None, "any") else _size(args.size)
    shape = {
        "size": size,
        "batch": None if args.batch == "any" else _number("--batch", args.batch),
        "fixed_size": args.size != "any",
    }
    suffix = EXPORTERS[args.format].suffix if args.format in EXPORTERS else ""
    name = f"model-int8{suffix}" if args.int8 else f"model{suffix}"
    out = args.out or checkpoint.path.parent / name
    if args.int8:
        _int8(checkpoint, out, args.data, shape)
        return
    images = None
    if args.images:
        images = letterboxed(args.images, size or tuple(checkpoint.config.data.input_size))
    checked = export(
        checkpoint,
        args.format,
        out,
        images=images,
        **shape,
    )
    table = Table(title=f"{checked.path}: the same as PyTorch on {checked.images} images")
    for name in ("size", "scores differ", "boxes differ", "an image", "PyTorch"):
        table.add_column(name, justify="right")
    table.add_row(
        f"{checked.size / 1e6:.1f} MB",
        f"{checked.score_difference:.1g}",
        f"{checked.box_difference:.1g} px",
        f"{1e3 * checked.seconds:.1f} ms",
        f"{1e3 * checked.torch_seconds:.1f} ms",
    )
    console = Console()
    console.print(table)
    if checked.others:
        console.print(f"{checked.others} triplets have another box that matches as well")


def _int8(checkpoint, out, root: str | None, shape: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    from ggnet.export.int8 import quantize

    found = quantize(checkpoint, out, root=root, console=Console(stderr=True), **shape)
    table = Table(title=f"{found.path}: {found.images} images of split {found.split}")
    for name in ("", "size", "mean AP", "an image"):
        table.add_column(name, justify="right" if name else "left")
    for name, size, mean_ap, seconds in (
        ("8 bits", found.size, found.mean_ap, found.seconds),
        ("float32", found.float_size, found.float_mean_ap, found.float_seconds),
    ):
        table.add_row(name, f"{size / 1e6:.1f} MB", f"{mean_ap:.2f}", f"{1e3 * seconds:.1f} ms")
    Console().print(table)


def _number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{name} is {text}; expected a number or any")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise UserError(f"--size is {text}; expected HEIGHTxWIDTH, such as 512x512, or any")
    return int(height), int(width)

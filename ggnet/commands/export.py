"""`ggnet export`."""

import argparse

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


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from rich.console import Console
    from rich.table import Table

    from ggnet.engine.checkpoint import open_checkpoint
    from ggnet.export import EXPORTERS
    from ggnet.export.run import export, letterboxed

    checkpoint = open_checkpoint(args.checkpoint)
    size = None if args.size in (None, "any") else _size(args.size)
    suffix = EXPORTERS[args.format].suffix if args.format in EXPORTERS else ""
    out = args.out or checkpoint.path.parent / f"model{suffix}"
    images = None
    if args.images:
        images = letterboxed(args.images, size or tuple(checkpoint.config.data.input_size))
    checked = export(
        checkpoint,
        args.format,
        out,
        size=size,
        batch=None if args.batch == "any" else _number("--batch", args.batch),
        fixed_size=args.size != "any",
        images=images,
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


def _number(name: str, text: str) -> int:
    from ggnet.errors import UserError

    if not text.isdecimal():
        raise UserError(f"{name} is {text}; expected a number or any")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    from ggnet.errors import UserError

    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise UserError(f"--size is {text}; expected HEIGHTxWIDTH, such as 512x512, or any")
    return int(height), int(width)

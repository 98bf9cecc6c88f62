"""`ggnet import`."""

import argparse

SUMMARY = "use published weights of GGNet, PPDM, CenterNet, DLA or ResNet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("source", metavar="FILE", help="a .pth file of the original code")
    parser.add_argument(
        "out", metavar="OUT", help="checkpoint, or weights for train.init, to write"
    )
    parser.add_argument(
        "--dataset",
        metavar="FOLDER",
        help="dataset whose objects and verbs the weights know (not needed for HICO-DET)",
    )


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from ggnet.engine.importing import import_file

    found = import_file(args.source, args.out, args.dataset)
    print(f"{found.source.title}: {len(found.state)} tensors in {args.out}")
    for key, reason in found.dropped.items():
        print(f"  left out {key}: {reason}")
    if found.num_verbs is None:
        print(f"Start a training from it with: ggnet train train.init={args.out} ...")

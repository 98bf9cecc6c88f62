"""`ggnet import`."""

import argparse
from collections import Counter

from ggnet.errors import UserError

SUMMARY = "use published weights of GGNet, PPDM, CenterNet, DLA or ResNet"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument(
        "source", metavar="FILE", nargs="?", help="a .pth file of the original code"
    )
    parser.add_argument(
        "out", metavar="OUT", nargs="?", help="checkpoint, or weights for train.init, to write"
    )
    parser.add_argument(
        "--list", action="store_true", help="list what is published, where, and its use; then stop"
    )
    parser.add_argument(
        "--dataset",
        metavar="FOLDER",
        help="dataset whose objects and verbs the weights know (not needed for HICO-DET)",
    )
    parser.add_argument("--verbose", action="store_true", help="name every tensor left out")


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from ggnet.engine.importing import import_file
    from ggnet.models.releases import lines

    if args.list:
        print("\n".join(lines()))
        return
    if args.out is None:
        raise UserError("give the published FILE and the file to write: ggnet import FILE OUT")
    found = import_file(args.source, args.out, args.dataset)
    print(f"{found.source.title}: {len(found.state)} tensors in {args.out}")
    if args.verbose:
        for key, reason in found.dropped.items():
            print(f"  left out {key}: {reason}")
    else:
        for reason, count in Counter(found.dropped.values()).items():
            print(f"  left out {count} tensors (--verbose names them): {reason}")
    backbone = found.model.backbone
    if found.num_verbs is not None:
        print(
            f"It is a checkpoint: ggnet predict photo.jpg --checkpoint {args.out}, ggnet eval "
            f"{args.out} data.root=..., or to go on from it: ggnet train train.init={args.out} "
            f"model.backbone={backbone} ..."
        )
    else:
        print(
            "It is a beginning, without verbs: ggnet train "
            f"train.init={args.out} model.backbone={backbone} ..."
        )

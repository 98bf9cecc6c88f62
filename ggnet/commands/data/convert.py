"""`ggnet data convert`."""

import argparse

from ggnet.commands.common import SHOWN

SUMMARY = "import a published annotation format, or an annotation tool's export"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("source", help="one of the names below")
    parser.add_argument("output", help="dataset folder to write")
    share = " (or a share of the training images to hold out: 0.1)"
    for split, use in (
        ("train", "training"),
        ("val", f"choosing the best epoch{share}"),
        ("test", f"testing{share}"),
    ):
        metavar = "FILE" if split == "train" else "FILE|SHARE"
        parser.add_argument(f"--{split}", metavar=metavar, help=f"annotations for {use}")
        parser.add_argument(
            f"--{split}-images", metavar="FOLDER", help=f"default: OUTPUT/images/{split}"
        )
    parser.add_argument(
        "--person",
        default="person",
        metavar="LABEL",
        help="one's own data: the label of people (default: %(default)s)",
    )
    parser.add_argument("--labels", metavar="FILE", help="hico-mat: anno.mat, for Known-Object")
    parser.add_argument(
        "--coco", metavar="FILE", nargs="+", default=(), help="vcoco-official: instances_*2014.json"
    )
    parser.add_argument(
        "--keep-repeated-boxes",
        action="store_true",
        help="HICO-DET's training split: do not merge the boxes that were drawn for each verb anew",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    format_help = parser.format_help

    def with_sources() -> str:
        from ggnet.data.sources import SOURCES  # imported only for who asks

        width = max(map(len, SOURCES))
        lines = (f"  {name:<{width}}  {source.help}" for name, source in SOURCES.items())
        parser.epilog = "\n".join(["sources:", *lines])
        return format_help()

    parser.format_help = with_sources


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from rich.console import Console

    from ggnet.data.convert import convert
    from ggnet.data.problems import Problems

    problems = Problems()
    dataset = convert(
        args.source,
        args.output,
        train=args.train,
        val=args.val,
        test=args.test,
        train_images=args.train_images,
        val_images=args.val_images,
        test_images=args.test_images,
        labels=args.labels,
        coco=args.coco,
        merge=not args.keep_repeated_boxes,
        person=args.person,
        problems=problems,
    )
    console = Console()
    if len(problems):
        console.print(problems.table())
        print(*problems.lines(SHOWN), sep="\n")
    names = dataset.vocabulary
    console.print(
        f"{names.name} ({', '.join(dataset.splits)}; {len(names.objects)} objects, "
        f"{len(names.verbs)} verbs, {len(names.hois)} HOIs) in {args.output}. "
        f"`ggnet data verify {args.output}` checks it with its images",
        highlight=False,
        soft_wrap=True,
    )

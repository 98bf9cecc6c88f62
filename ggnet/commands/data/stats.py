"""`ggnet data stats`."""

import argparse

SUMMARY = "how often objects, verbs and HOIs occur"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("root", help="dataset folder")
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--out", metavar="PNG", help="also plot the frequencies")


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from rich.console import Console

    from ggnet.data.annotations import load_dataset
    from ggnet.data.tools import dataset_statistics

    dataset = load_dataset(args.root)
    records = dataset.load(args.split, look_for_images=False)
    statistics = dataset_statistics(records, dataset.vocabulary)
    console = Console()
    console.print(statistics.table(dataset.rare_hois()))
    for kind in ("objects", "verbs", "hois"):
        console.print(statistics.frequency_table(kind))
    if args.out:
        from ggnet.viz.frequencies import plot_frequencies

        plot_frequencies(statistics, args.out)
        console.print(f"plotted to {args.out}", highlight=False)

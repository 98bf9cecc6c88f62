"""`ggnet data browse`."""

import argparse

from ggnet.commands.report import add_page_arguments, say_written

SUMMARY = "an HTML page to look through a dataset's images and pairs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument("root", help="dataset folder")
    parser.add_argument("--split", help="default: train, or the first one without a train")
    add_page_arguments(parser, "browse.html")


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from ggnet.report.make import browse
    from ggnet.report.write import Page

    page = Page(args.out or "browse.html", embed=args.embed, side=args.size)
    say_written(browse(args.root, args.split, page), args.embed)

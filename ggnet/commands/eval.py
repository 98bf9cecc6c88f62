"""`ggnet eval`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ggnet.commands.common import OVERRIDE, add_overrides
from ggnet.errors import UserError

if TYPE_CHECKING:
    from ggnet.eval.report import Report

SUMMARY = "metrics of a checkpoint, or of a prediction file, on a split"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.add_argument(
        "checkpoint", metavar="RUN|CHECKPOINT", nargs="?", help="not needed with --predictions"
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="score this file (ours, PPDM's JSON, a V-COCO pickle or HICO-DET's .mat) for the "
        "dataset data.root",
    )
    parser.add_argument(
        "--detections",
        metavar="FILE",
        help="use another detector's boxes (COCO's JSON of results) in place of the network's",
    )
    parser.add_argument(
        "--write",
        metavar="FORMAT",
        action="append",
        default=[],
        help="also write the predictions for another evaluator: ppdm-json, vcoco-pickle, hico-mat "
        "(ho-rcnn's format 'all'); may be repeated",
    )
    parser.add_argument("--split", help="of the dataset (default: test, or val without a test)")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="score the images that are there, although some of the split are missing",
    )
    parser.add_argument("--classes", action="store_true", help="show the table of classes, too")
    parser.add_argument(
        "--json", action="store_true", help="print what metrics.json holds, and nothing else"
    )
    parser.add_argument(
        "--out", help="folder of the results (default: the run's; with --predictions: none)"
    )
    add_overrides(parser)


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    if args.checkpoint and OVERRIDE.fullmatch(args.checkpoint):
        args.overrides.insert(0, args.checkpoint)
        args.checkpoint = None
    if bool(args.checkpoint) == bool(args.predictions):
        raise UserError("give either a run folder or checkpoint, or --predictions FILE")
    if args.detections and not args.checkpoint:
        raise UserError("--detections needs a network to find the interactions: give its run")
    if args.write and not (args.checkpoint or args.out):
        raise UserError("--write needs a folder for the file: give --out")
    if args.partial:
        args.overrides.append("eval.partial=true")
    out = Path(args.out) if args.out else None
    if args.checkpoint:
        _of_checkpoint(args, out)
    else:
        _of_file(args, out)


def _of_checkpoint(args: argparse.Namespace, out: Path | None) -> None:
    from rich.console import Console

    from ggnet.engine.checkpoint import open_checkpoint
    from ggnet.engine.evaluation import evaluate_checkpoint
    from ggnet.engine.plots import plot_report
    from ggnet.eval.writers import check_writable

    console = Console(stderr=True)
    checkpoint = open_checkpoint(args.checkpoint)
    check_writable(args.write, checkpoint.vocabulary)
    out = out or checkpoint.path.parent
    report = evaluate_checkpoint(
        checkpoint, args.overrides, out, console, split=args.split, detections=args.detections
    )
    if report is None:  # one of several processes: the first one speaks
        return
    plot_report(report, out)
    _show(report, args, out)


def _of_file(args: argparse.Namespace, out: Path | None) -> None:
    from ggnet.config import load_config
    from ggnet.data.unseen import open_dataset
    from ggnet.engine.plots import plot_report
    from ggnet.eval.score import score_file
    from ggnet.eval.writers import check_writable

    config = load_config(None, args.overrides)
    dataset = open_dataset(config.data)
    check_writable(args.write, dataset.vocabulary)
    split = args.split or dataset.split_to_score
    report = score_file(args.predictions, dataset, split, config.eval)
    if out:
        report.write(out)
        plot_report(report, out)
    _show(report, args, out)


def _show(report: "Report", args: argparse.Namespace, out: Path | None) -> None:
    import json

    from rich.console import Console

    from ggnet.eval.report import CLASSES
    from ggnet.eval.writers import write_foreign

    written = [str(write_foreign(name, report, out)) for name in args.write]
    if args.json:
        print(json.dumps(report.to_dict(), indent=1))
        return
    console = Console()
    if args.classes:
        console.print(report.result.class_table())
    for table in report.tables():
        console.print(table)
    if report.f1 is not None and (best := report.f1.best()) is not None:
        console.print(
            f"F1 is best at a score of {best['threshold']:.3g}: {best['f1']:.2f}, precision "
            f"{best['precision']:.2f}, recall {best['recall']:.2f}",
            highlight=False,
        )
    if out:
        text = f"Results of split {report.split} in {out}; every class in {CLASSES}"
        console.print(text + ("" if args.classes else " and with --classes"), soft_wrap=True)
    if written:
        console.print(f"For other evaluators: {', '.join(written)}", soft_wrap=True)

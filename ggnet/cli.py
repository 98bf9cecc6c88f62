"""The `ggnet` command.

Only argparse is imported here; each command imports what it needs, so that `ggnet --help` is quick.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ggnet import __version__
from ggnet.errors import UserError

SHOWN = 10  # broken records of a kind that are named
USER_ERROR = 2  # as argparse: the user can put it right
OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)

EXAMPLES = """\
examples:
  ggnet demo                                        the whole way on generated scenes, in minutes
  ggnet data generate data/scenes                   the bundled dataset
  ggnet train data.root=data/scenes train.epochs=5  train with changed settings
  ggnet train --resume runs/train                   go on where a run was stopped
  torchrun --nproc-per-node 2 -m ggnet train ...    on several GPUs (or CPU processes)
  ggnet eval runs/train                             metrics of a run's best checkpoint
  ggnet eval runs/train --detections boxes.json     the same with another detector's boxes
  ggnet import ctdet_coco_hg.pth init.pt            published weights ...
  ggnet train model.backbone=hourglass104 data.input_size=[512,512] train.init=init.pt
                                                    ... to start a training from
  ggnet predict photo.jpg --checkpoint runs/train   pictures and JSON of what people do

Settings are section.key=value; `ggnet train --print-config` lists them all.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a problem of the user's, 130 for Ctrl-C."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    overrides = [item for item in rest if OVERRIDE.fullmatch(item)]  # given after an option
    if len(overrides) < len(rest) or (rest and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(x for x in rest if x not in overrides)}")
    if overrides:
        args.overrides += overrides
    _show_warnings()
    try:
        return args.command(args) or 0
    except UserError as error:
        _complain(str(error))
        return USER_ERROR
    except ImportError as error:
        if error.name == "torch":
            _complain(
                f"torch cannot be imported by {sys.executable} ({error}); install torch 2.11 or "
                "newer (pip install torch), then compile the operators: pip install -e ."
            )
        elif "compiled operators" in str(error):
            _complain(str(error))
        elif isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("ggnet"):
            _complain(
                f"{sys.executable} has no package {error.name}, which ggnet needs; install what is "
                "missing: pip install -e ."
            )
        else:
            raise
        return USER_ERROR
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="ggnet",
        description="Human-object interaction detection with GGNet (Glance and Gaze, CVPR 2021).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ggnet {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "generate, train, evaluate and draw, in one go")
    demo.add_argument("--out", default="runs/demo", help="run folder (default: %(default)s)")
    _add_overrides(demo)

    train = _command(commands, "train", _train, "train a network, then evaluate it")
    train.add_argument("--config", help="preset or .yaml file (default: the schema's defaults)")
    train.add_argument("--out", help="run folder (default: runs/NAME, numbered if taken)")
    train.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    train.add_argument(
        "--print-config", action="store_true", help="print the configuration and stop"
    )
    _add_overrides(train)

    evaluate = _command(
        commands,
        "eval",
        _eval,
        "metrics of a checkpoint, or of a prediction file, on the test split",
    )
    evaluate.add_argument(
        "checkpoint", metavar="RUN|CHECKPOINT", nargs="?", help="not needed with --predictions"
    )
    evaluate.add_argument(
        "--predictions",
        metavar="FILE",
        help="score this file (ours, PPDM's JSON or a V-COCO pickle) for the dataset data.root",
    )
    evaluate.add_argument(
        "--detections",
        metavar="FILE",
        help="use another detector's boxes (COCO's JSON of results) in place of the network's",
    )
    evaluate.add_argument(
        "--out", help="folder of the results (default: the run's; with --predictions: none)"
    )
    _add_overrides(evaluate)

    predict = _command(commands, "predict", _predict, "pictures and JSON for images of your own")
    predict.add_argument("sources", metavar="IMAGE|FOLDER", nargs="+")
    predict.add_argument("--checkpoint", required=True, metavar="RUN|CHECKPOINT")
    predict.add_argument("--out", default="runs/predict", help="folder (default: %(default)s)")
    predict.add_argument("--threshold", type=float, default=0.07, help="lowest score drawn")
    predict.add_argument("--top", type=int, default=10, help="most triplets drawn in a picture")
    predict.add_argument(
        "--actpoints", action="store_true", help="also draw where the best triplet's gaze lay"
    )
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")

    importer = _command(
        commands, "import", _import, "use published weights of GGNet, PPDM, CenterNet or DLA"
    )
    importer.add_argument("source", metavar="FILE", help="a .pth file of the original code")
    importer.add_argument(
        "out", metavar="OUT", help="checkpoint, or weights for train.init, to write"
    )
    importer.add_argument(
        "--dataset",
        metavar="FOLDER",
        help="dataset whose objects and verbs the weights know (not needed for HICO-DET)",
    )

    _add_data_commands(commands)

    _command(commands, "env", _env, "what is installed, compiled and usable, and why not")
    return parser


def _add_data_commands(commands) -> None:
    data = commands.add_parser("data", help="make, check, import and describe datasets")
    commands = data.add_subparsers(metavar="COMMAND", required=True)

    generate = _command(commands, "generate", _data_generate, "make the bundled dataset")
    generate.add_argument("root", nargs="?", default="data/scenes", help="default: %(default)s")
    generate.add_argument("--train", type=int, default=2000, help="images (default: %(default)s)")
    generate.add_argument("--test", type=int, default=500, help="images (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument(
        "--size", type=int, default=128, help="side in pixels (default: %(default)s)"
    )

    verify = _command(
        commands, "verify", _data_verify, "find broken records and images (exit status 1 if any)"
    )
    verify.add_argument("root", help="dataset folder")
    verify.add_argument("--no-images", action="store_true", help="do not decode the images")
    verify.add_argument(
        "--all", action="store_true", help=f"name every record, not the first {SHOWN} of a kind"
    )

    convert = _command(commands, "convert", _data_convert, "import a published annotation format")
    convert.add_argument(
        "source",
        help="hico-json, hico-mat, hico-ppdm, vcoco-json, vcoco-official or vcoco-ppdm",
    )
    convert.add_argument("output", help="dataset folder to write")
    for split in ("train", "test"):
        convert.add_argument(f"--{split}", metavar="FILE", help=f"annotations for {split}ing")
        convert.add_argument(
            f"--{split}-images", metavar="FOLDER", help=f"default: OUTPUT/images/{split}"
        )
    convert.add_argument("--labels", metavar="FILE", help="hico-mat: anno.mat, for Known-Object")
    convert.add_argument(
        "--coco", metavar="FILE", nargs="+", default=(), help="vcoco-official: instances_*2014.json"
    )

    stats = _command(commands, "stats", _data_stats, "how often objects, verbs and HOIs occur")
    stats.add_argument("root", help="dataset folder")
    stats.add_argument("--split", default="train", help="default: %(default)s")
    stats.add_argument("--out", metavar="PNG", help="also plot the frequencies")


def _command(
    commands, name: str, function: Callable[[argparse.Namespace], int | None], summary: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(command=function)
    return parser


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings, e.g. train.lr=1e-3"
    )


def _demo(args: argparse.Namespace) -> int | None:
    from ggnet.demo import demo
    from ggnet.engine.signals import INTERRUPTED, Interrupted

    try:
        demo(Path(args.out), args.overrides)
    except Interrupted:
        print("Stopped. The same command goes on from here.")
        return INTERRUPTED
    return None


def _train(args: argparse.Namespace) -> int | None:
    from ggnet.config import describe, load_config

    if args.print_config:
        print(describe(load_config(args.config, args.overrides)), end="")
        return None
    if args.resume and args.out:
        raise UserError("--resume goes on in the run's own folder; leave out --out")
    config = None if args.resume else load_config(args.config, args.overrides)

    from rich.console import Console

    from ggnet.engine.evaluation import write_plots
    from ggnet.engine.runs import free_folder, resume_run
    from ggnet.engine.signals import INTERRUPTED, Interrupted
    from ggnet.engine.trainer import train

    if config is None:
        run, config, state = resume_run(args.resume, args.config, args.overrides)
    else:
        run = Path(args.out) if args.out else free_folder(Path("runs"), args.config)
        state = None
    console = Console()
    try:
        result = train(config, run, resume=state, console=console)
    except Interrupted:
        if _is_main():
            print(f"Stopped and saved. Go on with: ggnet train --resume {run}")
        return INTERRUPTED
    if _is_main():
        write_plots(run, result, config)
        if result is not None:
            console.print(result.table())
        console.print(f"Results in {run}", soft_wrap=True, highlight=False)
    return None


def _eval(args: argparse.Namespace) -> None:
    if args.checkpoint and OVERRIDE.fullmatch(args.checkpoint):
        args.overrides.insert(0, args.checkpoint)
        args.checkpoint = None
    if bool(args.checkpoint) == bool(args.predictions):
        raise UserError("give either a run folder or checkpoint, or --predictions FILE")
    if args.detections and not args.checkpoint:
        raise UserError("--detections needs a network to find the interactions: give its run")
    out = Path(args.out) if args.out else None

    from rich.console import Console

    from ggnet.config import load_config

    console = Console()
    if args.checkpoint:
        from ggnet.engine.evaluation import evaluate_checkpoint

        boxes = args.detections
        evaluate_checkpoint(args.checkpoint, args.overrides, out, console, detections=boxes)
        return

    from ggnet.data.annotations import load_dataset
    from ggnet.eval.score import score_file

    config = load_config(None, args.overrides)
    dataset = load_dataset(config.data.root)
    report = score_file(
        args.predictions,
        dataset,
        rare_threshold=config.eval.rare_threshold,
        protocol=config.eval.protocol,
        points=config.eval.points,
    )
    for table in report.tables():
        console.print(table)
    if out:
        report.write(out)
        report.plot(out)


def _predict(args: argparse.Namespace) -> int:
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


def _import(args: argparse.Namespace) -> None:
    from ggnet.engine.importing import import_file

    found = import_file(args.source, args.out, args.dataset)
    print(f"{found.source.title}: {len(found.state)} tensors in {args.out}")
    for key, reason in found.dropped.items():
        print(f"  left out {key}: {reason}")
    if found.num_verbs is None:
        print(f"Start a training from it with: ggnet train train.init={args.out} ...")


def _data_generate(args: argparse.Namespace) -> None:
    from ggnet.data.scenes import generate

    counts = {"train": args.train, "test": args.test}
    with _progress("generating") as progress:
        generate(args.root, **counts, seed=args.seed, size=args.size, progress=progress)
    print(f"{args.train} training and {args.test} test images in {args.root}")


def _data_verify(args: argparse.Namespace) -> int:
    from rich.console import Console

    from ggnet.data.tools import verify_dataset

    with _progress("reading images") as progress:
        result = verify_dataset(args.root, read_images=not args.no_images, progress=progress)
    console = Console()
    console.print(result.table())
    if result.ok:
        console.print("no problems")
        return 0
    console.print(result.problems.table())
    print(*result.problems.lines(None if args.all else SHOWN), sep="\n")
    if not args.all and max(result.problems.counts.values()) > SHOWN:
        print("--all names every record.")
    return 1


def _data_convert(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ggnet.data.convert import convert
    from ggnet.data.problems import Problems

    problems = Problems()
    dataset = convert(
        args.source,
        args.output,
        train=args.train,
        test=args.test,
        train_images=args.train_images,
        test_images=args.test_images,
        labels=args.labels,
        coco=args.coco,
        problems=problems,
    )
    console = Console()
    if len(problems):
        console.print(problems.table())
        print(*problems.lines(SHOWN), sep="\n")
    splits = ", ".join(dataset.splits)
    console.print(f"{dataset.vocabulary.name} ({splits}) in {args.output}", highlight=False)


def _data_stats(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ggnet.data.annotations import load_dataset
    from ggnet.data.tools import dataset_statistics

    dataset = load_dataset(args.root)
    records = dataset.load(args.split, look_for_images=False)
    statistics = dataset_statistics(records, dataset.vocabulary)
    console = Console()
    console.print(statistics.table())
    for kind in ("objects", "verbs", "hois"):
        console.print(statistics.frequency_table(kind))
    if args.out:
        from ggnet.viz.frequencies import plot_frequencies

        plot_frequencies(statistics, args.out)
        console.print(f"plotted to {args.out}", highlight=False)


def _env(args: argparse.Namespace) -> int:
    from rich.console import Console

    from ggnet.environment import report

    return 0 if report(Console()) else USER_ERROR


@contextmanager
def _progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, to be called with (done, in all); elsewhere nothing."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        task = bar.add_task(text)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _show_warnings() -> None:
    """The package's warnings on stderr, from one process only."""
    logger = logging.getLogger("ggnet")
    logger.setLevel(logging.WARNING if _is_main() else logging.CRITICAL)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("warning: %(message)s"))
        logger.addHandler(handler)


def _complain(message: str) -> None:
    process = f" [process {os.environ['RANK']}]" if "RANK" in os.environ else ""
    print(f"error{process}: {message}", file=sys.stderr)

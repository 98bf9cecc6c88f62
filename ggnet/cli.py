"""The `ggnet` command.

Only argparse is imported here; each command imports what it needs, so that `ggnet --help` is quick.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ggnet import __version__
from ggnet.errors import UserError

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
        if "compiled operators" not in str(error):
            raise
        _complain(str(error))
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

    evaluate = _command(commands, "eval", _eval, "metrics of a checkpoint on its test split")
    evaluate.add_argument("checkpoint", metavar="RUN|CHECKPOINT")
    evaluate.add_argument(
        "--predictions", metavar="FILE", help="score this prediction file instead of predicting"
    )
    evaluate.add_argument("--out", help="folder of the results (default: the run folder)")
    _add_overrides(evaluate)

    env = _command(commands, "env", _env, "what is installed, compiled and usable, and why not")
    env.set_defaults(overrides=None)
    return parser


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
    if result is not None:
        console.print(result.table())
        console.print(f"Results in {run}", soft_wrap=True, highlight=False)
    return None


def _eval(args: argparse.Namespace) -> None:
    from rich.console import Console

    from ggnet.engine.evaluation import evaluate_checkpoint

    predictions = Path(args.predictions) if args.predictions else None
    out = Path(args.out) if args.out else None
    evaluate_checkpoint(args.checkpoint, args.overrides, predictions, out, Console())


def _env(args: argparse.Namespace) -> int:
    from rich.console import Console

    from ggnet.environment import report

    return 0 if report(Console()) else USER_ERROR


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

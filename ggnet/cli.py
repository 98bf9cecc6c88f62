"""The `ggnet` command: joins the commands of `ggnet.commands` and turns errors into words.

Only argparse is imported here; each command imports what it needs, so that `ggnet --help` is quick.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr

from ggnet import __version__
from ggnet.commands import COMMANDS
from ggnet.commands.common import OVERRIDE, USER_ERROR, add_commands, is_main
from ggnet.cores import limit_threads
from ggnet.errors import UserError

EXAMPLES = """\
examples:
  ggnet demo                                        the whole way on generated scenes, in minutes
  ggnet data generate data/scenes                   the bundled dataset
  ggnet train data.root=data/scenes train.epochs=5  train with changed settings
  ggnet train --resume runs/train                   go on where a run was stopped
  torchrun --nproc-per-node 2 -m ggnet train ...    on several GPUs (or CPU processes)
  ggnet eval runs/train                             metrics of a run's best checkpoint
  ggnet eval runs/train --detections boxes.json     the same with another detector's boxes
  ggnet report runs/train                           an HTML page of them, with every image
  ggnet ablate table1 --seeds 5                     a table of the paper, with intervals
  ggnet compare runs/one runs/two                   what two runs say about the same images
  ggnet import ctdet_coco_hg.pth init.pt            published weights ...
  ggnet train model.backbone=hourglass104 data.input_size=[512,512] train.init=init.pt
                                                    ... to start a training from
  ggnet predict photo.jpg --checkpoint runs/train   pictures and JSON of what people do
  ggnet predict clip.mp4 --checkpoint runs/train    a video with the triplets drawn, too
  ggnet export runs/train --format onnx             the network for other programs

Settings are section.key=value; `ggnet train --print-config` lists them all.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for a problem of the user's, 130 for Ctrl-C."""
    limit_threads()
    for stream in (sys.stdout, sys.stderr):  # file names need not be text of the terminal's kind
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with (
        nullcontext() if is_main() else redirect_stderr(None)
    ):  # a mistake that all make is said once
        args = _parse(argv)
    _show_warnings()
    try:
        status = args.command(args) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        _complain("what reads the output has closed it; not all was written")
        return USER_ERROR
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


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the Tab key, see `ggnet completion`
        import argcomplete

        argcomplete.autocomplete(parser)  # does not return
    args, rest = parser.parse_known_args(argv)
    overrides = [item for item in rest if OVERRIDE.fullmatch(item)]  # given after an option
    if len(overrides) < len(rest) or (rest and not hasattr(args, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(x for x in rest if x not in overrides)}")
    if overrides:
        args.overrides += overrides
    return args


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="ggnet",
        description="Human-object interaction detection with GGNet (Glance and Gaze, CVPR 2021).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ggnet {__version__}")
    add_commands(parser, "ggnet.commands", COMMANDS)
    return parser


def _show_warnings() -> None:
    """The package's warnings on stderr, from one process only; errors from each."""
    logger = logging.getLogger("ggnet")
    logger.setLevel(logging.WARNING if is_main() else logging.ERROR)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("warning: %(message)s"))
        logger.addHandler(handler)


def _complain(message: str) -> None:
    if "RANK" in os.environ:
        try:
            from ggnet.engine.distributed import is_said
        except ImportError:  # of torch; perhaps what the message is about
            pass
        else:
            if is_said(message):
                return
    print(f"error: {message}", file=sys.stderr)

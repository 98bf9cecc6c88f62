"""What several commands share."""

import argparse
import os
import re
from collections.abc import Sequence
from importlib import import_module

USER_ERROR = 2  # exit status, as argparse's: the user can put it right
SHOWN = 10  # broken records of a kind that are named
OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)


def add_commands(parser: argparse.ArgumentParser, package: str, names: Sequence[str]) -> None:
    """Give `parser` the commands in modules of `package`; see `ggnet.commands`."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in names:
        module = import_module(f"{package}.{name}")
        summary = module.SUMMARY
        command = commands.add_parser(
            name.rstrip("_").replace("_", "-"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
        )
        module.add_arguments(command)
        if hasattr(module, "run"):  # a group of commands has none
            command.set_defaults(command=module.run)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Settings of the configuration, anywhere on the command line."""
    overrides = parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings, e.g. train.lr=1e-3"
    )
    overrides.completer = _settings


def _settings(**_) -> list[str]:
    """What `ggnet completion` offers for settings."""
    from ggnet.config import Config

    return [
        f"{section}.{key}=" for section, values in Config().model_dump().items() for key in values
    ]


def is_main() -> bool:
    """Whether this process speaks, of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"

"""`ggnet completion`."""

import argparse

SHELLS = ("bash", "zsh", "fish")
SUMMARY = "what a shell needs to complete commands, options and settings with the Tab key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `ggnet.commands`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        'bash, in ~/.bashrc:                     eval "$(ggnet completion bash)"\n'
        'zsh, in ~/.zshrc behind compinit:       eval "$(ggnet completion zsh)"\n'
        "fish, in ~/.config/fish/config.fish:    ggnet completion fish | source"
    )
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    """See `ggnet.commands`."""
    from ggnet.errors import UserError

    try:
        import argcomplete
    except ImportError:
        raise UserError("completion needs argcomplete: pip install argcomplete") from None
    print(argcomplete.shellcode(["ggnet"], shell=args.shell))

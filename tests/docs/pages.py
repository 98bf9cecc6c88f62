"""The commands and snippets of a page, and a place to run them in."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """The page's code blocks of a language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(page: str) -> list[str]:
    """Every line of the page's shell blocks, without comments."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return [line for line in lines if line]


class Shell:
    """Runs command lines in a folder where `ggnet` and `python` are this installation's."""

    def __init__(self, folder: Path):
        self.folder = folder
        programs = folder.parent / "bin"
        programs.mkdir(exist_ok=True)
        for name, module in (("ggnet", " -m ggnet"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{module} "$@"\n')
            program.chmod(0o755)
        self.environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}

    def run(self, line: str) -> str:
        """The command's output; it must end well."""
        done = subprocess.run(
            ["bash", "-e", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def interrupt(self, line: str, once: Path) -> None:
        """Start a command and press Ctrl-C once the file is there; it must say how to go on."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not (self.folder / once).exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
        assert "Stopped and saved" in output, f"$ {line} ({process.returncode})\n{output}"

"""What the Tab key completes, asked of bash itself."""

import shutil
import subprocess
import sys

import pytest

from ggnet.cli import main

pytest.importorskip("argcomplete")
ASK = """
source ./script
[[ $(complete -p ggnet) =~ -F\\ ([^\\ ]+) ]] && complete_it=${BASH_REMATCH[1]}
read -ra COMP_WORDS <<<"$1"
[[ $1 == *' ' ]] && COMP_WORDS+=("")
COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
$complete_it ggnet "${COMP_WORDS[$COMP_CWORD]}" "${COMP_WORDS[$COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def offered(tmp_path, monkeypatch, capsys):
    """offered(line) -> what bash offers when Tab is pressed at its end."""
    program = tmp_path / "bin" / "ggnet"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ggnet "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    monkeypatch.chdir(tmp_path)
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)

    def ask(line):
        done = subprocess.run(["bash", "-c", ASK, "bash", line], capture_output=True, text=True)
        assert not done.stderr
        return {word.strip() for word in done.stdout.splitlines()} - {""}

    return ask


def test_commands_and_options(offered):
    assert offered("ggnet ") >= {"train", "eval", "predict", "data", "import", "completion"}
    assert offered("ggnet tr") == {"train"}
    assert offered("ggnet data v") == {"verify"}
    assert "--resume" in offered("ggnet train --re")
    assert offered("ggnet completion f") == {"fish"}


def test_settings_and_presets(offered):
    assert offered("ggnet train train.ep") == {"train.epochs="}
    assert offered("ggnet train --config hico_d") == {"hico_dla34"}


def test_files(offered, tmp_path):
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "photo.jpg").touch()
    assert offered("ggnet train --config mi") == {"mine.yaml"}
    assert offered("ggnet predict ph") == {"photo.jpg"}


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert {"zsh": "compdef", "fish": "complete --command ggnet"}[shell] in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        check = [shell, "--no-execute", str(tmp_path / "script")]
        assert subprocess.run(check, check=False).returncode == 0


def test_a_missing_library_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main(["completion", "bash"]) == 2
    assert "pip install argcomplete" in capsys.readouterr().err

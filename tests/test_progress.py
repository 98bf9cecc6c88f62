"""Long work tells how far it is, off a terminal too, but not in every step."""

import io
import itertools
import json
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from samples import save_untrained

from ggnet import progress as module
from ggnet.cli import main
from ggnet.config import Config
from ggnet.progress import LINE_SECONDS, progress


def test_a_line_a_minute_off_a_terminal(monkeypatch):
    ticks = itertools.count(0.0, 20.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    file = io.StringIO()
    with progress("reading images", Console(file=file, width=30)) as told:
        for done in range(1, 10):
            told(done, 12)
    assert LINE_SECONDS == 60
    lines = file.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == [
        "reading images: 3 of 12",
        "reading images: 6 of 12",
        "reading images: 9 of 12",
    ]
    assert lines[0].endswith("about 3 min left")


def test_verify_shows_it(scenes, monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    assert main(["data", "verify", str(scenes)]) == 0
    captured = capsys.readouterr()
    assert "reading images: 22 of 22" in captured.err
    assert "reading images" not in captured.out  # which may be a file


def test_eval_shows_it(quick, tmp_path, monkeypatch, capsys):
    assert main(["train", "--out", str(tmp_path), *quick, "train.epochs=1"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    assert main(["eval", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "evaluating batches: 2 of 2" in captured.err
    assert "evaluating" not in captured.out


@pytest.fixture
def network(tmp_path):
    """Its folder, which is also that of an animation of three frames."""
    config = Config()
    config.data.input_size = (64, 64)
    save_untrained(tmp_path / "run", config)
    frames = [Image.fromarray(np.full((64, 64, 3), 80 * n, np.uint8)) for n in range(3)]
    frames[0].save(tmp_path / "walk.png", save_all=True, append_images=frames[1:])
    return tmp_path / "run"


def test_predict_shows_it_and_the_frame_of_a_video(network, monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    sources = [str(network.parent / "walk.png")]
    assert main(["predict", *sources, "--checkpoint", str(network), "--json"]) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines[0] == "predicting: 0 of 1, frame 0"  # nothing is done: no guess of what is left
    assert "predicting: 0 of 1, frame 2" in lines
    assert [json.loads(line)["frame"] for line in captured.out.splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("terminal", [("stderr",), ("stderr", "stdout")], ids="+".join)
def test_json_lines_go_to_stdout_whatever_is_a_terminal(network, terminal):
    """A bar on the terminal takes nothing of a file or pipe; on one screen lines are whole."""
    main_end, other_end = pty.openpty()
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    outputs |= dict.fromkeys(terminal, other_end)
    command = [sys.executable, "-m", "ggnet", "predict", str(network.parent / "walk.png")]
    with subprocess.Popen([*command, "--checkpoint", str(network), "--json"], **outputs) as process:
        os.close(other_end)
        screen = b""
        try:
            while block := os.read(main_end, 1 << 16):
                screen += block
        except OSError:  # the other end is closed
            pass
        text = process.stdout.read() if process.stdout else screen
    os.close(main_end)
    assert process.returncode == 0
    assert [json.loads(line)["frame"] for line in text.splitlines()] == [0, 1, 2]
    assert (b"predicting" in screen) is ("stdout" not in terminal)

"""Long work tells how far it is, off a terminal too, but not in every step."""

import io
import itertools
from types import SimpleNamespace

from rich.console import Console

from ggnet import progress as module
from ggnet.cli import main
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

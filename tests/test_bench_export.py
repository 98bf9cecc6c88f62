"""The table of docs/export.md: its rows are measured, and published between its marks."""

import json
import sys
from pathlib import Path

import pytest
from samples import save_untrained

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench/ is not installed

from bench import export as bench  # noqa: E402
from bench.publish import END  # noqa: E402
from ggnet.config import Config  # noqa: E402


@pytest.fixture
def page(tmp_path, monkeypatch):
    path = tmp_path / "export.md"
    path.write_text(f"before\n{bench.BEGIN}\nold\n{END}\nafter\n")
    monkeypatch.setattr(bench, "PAGE", path)
    return path


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["bench.export", *map(str, arguments)])
    return bench.main()


def test_a_network_is_measured_and_published(scenes, tmp_path, monkeypatch, page):
    config = Config()
    config.model.width = 16
    config.data.input_size = (64, 64)
    save_untrained(tmp_path / "run", config)
    monkeypatch.setattr(bench, "IMAGES", 6)
    given = ["--run", tmp_path / "run", "--data", scenes]
    out = tmp_path / "export.json"
    chosen = ["--network", "demo", "--format", "torch", "--out", out]
    assert run(monkeypatch, *given, *chosen, "--threads", 1) == 0
    [row] = json.loads(out.read_text())["rows"]
    assert row["images"] == 6
    assert row["sizes"] == [[64, 64], [32, 64], [96, 128]]
    assert 0 <= row["score_difference"] <= 1e-4
    assert row["bytes"] > 10_000

    run(monkeypatch, "--publish", out)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert f"| demo, 64 x 64 | torch.export | {row['bytes'] / 1e6:.1f} |" in text


def test_images_are_shared_among_three_sizes():
    assert bench.shared(3) == [16, 17, 17]
    assert sum(bench.shared(3)) == 50

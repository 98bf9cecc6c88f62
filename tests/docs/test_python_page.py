"""docs/python.md, example by example."""

import doctest
import re

import cv2
import numpy as np
import pytest
from pages import ROOT
from PIL import Image
from samples import save_untrained

import ggnet
from ggnet.config import Config


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run, photos and a clip under the names that the page uses."""
    config = Config()
    config.data.input_size = (64, 96)
    save_untrained(tmp_path / "runs" / "demo", config)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), codec, 5, (150, 100))
    for _ in range(3):
        writer.write(pixels)
    writer.release()
    monkeypatch.chdir(tmp_path)


def test_every_example(place):
    pytest.importorskip("pandas")
    pytest.importorskip("safetensors")
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, "python.md", "docs/python.md", 0)
    assert len(test.examples) > 15
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)


def test_everything_exported_is_on_the_page():
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    for name in ggnet.__all__:
        assert re.search(rf"ggnet\.{name}\b", text), name
    for kind in (ggnet.Model, ggnet.Result):
        for name, value in vars(kind).items():
            if callable(value) and not name.startswith("_") and name not in ("look", "index"):
                assert re.search(rf"\b{name}\(|`{name}`", text), f"{kind.__name__}.{name}"

"""README.md: its commands in the order printed, its snippet, its links."""

import re
from pathlib import Path

import numpy as np
import pytest
from pages import ROOT, Shell, blocks, commands
from PIL import Image
from samples import save_untrained

from ggnet.config import Config
from ggnet.data.annotations import load_dataset

# What makes `ggnet demo` and a training small; the commands are otherwise as printed.
SMALL = (
    "model.width=16 model.points_per_step=9 train.batch_size=4 data.workers=0 train.device=cpu "
    "train.loggers=[]"
)
SCENES = "scenes.train=8 scenes.test=2"
TINY = "model.backbone=tiny data.input_size=[64,64] train.epochs=1"
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md")),
]


@pytest.mark.slow
def test_commands_in_order(tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (100, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    shell = Shell(folder)
    lines = commands("README.md")
    assert lines[:2] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "$(BIN)/ggnet demo" in makefile  # all that `make demo` does when it has set up
    shell.run(f"ggnet demo {SMALL} {SCENES} train.epochs=1")
    [snippet] = blocks("README.md", "python")
    (folder / "snippet.py").write_text(snippet)
    shell.run("python snippet.py")
    for line in lines[2:]:
        if " train --config demo" in line:
            shell.interrupt(f"{line} {SMALL}", Path("runs/demo-2/last.pt"))
        elif "--resume" in line:
            assert "Results in runs/demo-2" in shell.run(line)
        else:
            shell.run(line)
    assert (folder / "runs/predict/photo.png").exists()


@pytest.mark.slow
def test_training_page(tmp_path, scenes):
    """With the bundled scenes in HICO-DET's place, and a small network."""
    folder = tmp_path / "clone"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "hico").symlink_to(scenes, target_is_directory=True)
    shell = Shell(folder)
    convert, verify, train, *benchmarks = commands("docs/training.md")
    networks = " ".join(f"bench/results/{machine}-networks.json" for machine in ("h100", "cpu"))
    assert benchmarks == [
        f"python -m bench model --publish {networks}",  # run by its own page
        *(f"python -m bench {name} --publish" for name in ("backbones", "loader", "shared")),
    ]
    assert "hico-ppdm" in shell.run(convert)
    assert "no problems" in shell.run(verify)
    shell.run(f"{train} {SMALL} {TINY}")
    assert (folder / "runs/hico_hourglass/curves.png").exists()


@pytest.mark.slow
def test_export_page(tmp_path, scenes):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    config = Config()
    config.data.input_size = (64, 64)
    config.data.root = "data/scenes"
    config.model.width = 16
    save_untrained(folder / "runs" / "demo", config, load_dataset(scenes).vocabulary)
    (folder / "data").mkdir()
    (folder / "data" / "scenes").symlink_to(scenes, target_is_directory=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.ppm")
    shell = Shell(folder)
    outputs = [shell.run(line) for line in commands("docs/export.md")]
    assert all("the same as PyTorch" in " ".join(text.split()) for text in outputs[:4])
    assert outputs[-1].count(" verb ") == 5
    assert "images of split test" in " ".join(outputs[4].split())
    for name in ("model.onnx", "model.xml", "model.bin", "model.pt2", "model-int8.onnx"):
        assert (folder / "runs" / "demo" / name).exists()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert ((ROOT / page).parent / target).exists(), target


def test_presets_and_settings_named_in_pages_exist():
    """`section.key` in a page is a key of the configuration."""
    from ggnet.config import DemoConfig

    sections = DemoConfig().model_dump()
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for section, key in re.findall(r"\b(model|data|loss|train|eval|scenes)\.([a-z_]+)=", text):
            assert key in sections[section], f"{page}: {section}.{key}"

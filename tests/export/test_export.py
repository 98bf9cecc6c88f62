"""`ggnet export`: what is written finds what the network finds, or is not kept."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples import CUPS, save_untrained

import ggnet
from ggnet.cli import main
from ggnet.config import Config
from ggnet.engine.checkpoint import open_checkpoint
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.export import EXPORTERS
from ggnet.export import run as module
from ggnet.export.program import OUTPUTS, Deployed
from ggnet.export.run import export
from ggnet.models import build_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network whose points stray from their grid."""
    config = Config()
    config.data.input_size = (64, 96)
    config.model.width = 16
    folder = tmp_path_factory.mktemp("run")
    save_untrained(folder, config)
    opened = open_checkpoint(folder)
    torch.manual_seed(1)
    for name, value in opened.weights.items():
        if "points" in name or "conv_offset" in name:
            torch.nn.init.normal_(value, std=0.1)
    return opened


@torch.no_grad()
def decided(network):
    """Weights of a network whose features have a spread, so that no two cells score the same."""
    torch.manual_seed(2)
    for name, part in network.named_modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
        elif name.startswith("heads") and isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.05)
    network.train()(torch.randn(4, 3, 64, 64))
    return network.state_dict()


def able(name):
    missing = [package for package in EXPORTERS[name].packages if find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


FORMATS = [
    pytest.param(name, marks=[able(name), *([pytest.mark.slow] if name != "torch" else [])])
    for name in EXPORTERS
]


@pytest.mark.parametrize("name", FORMATS)
def test_it_finds_the_same_on_any_batch_and_size(checkpoint, tmp_path, name):
    out = tmp_path / f"model{EXPORTERS[name].suffix}"
    checked = export(checkpoint, name, out, batch=None, fixed_size=False)
    assert checked.images >= 7
    assert checked.size >= out.stat().st_size > 1000
    about = json.loads((tmp_path / f"{out.name}.json").read_text())
    assert about["objects"] == list(CUPS.objects)
    assert about["outputs"] == list(OUTPUTS)
    # As a program that was handed the file would use it, on a picture of another size.
    pixels = np.random.default_rng(5).random((1, 3, 72, 80), dtype=np.float32)
    run = EXPORTERS[name].load(out)
    found = dict(zip(OUTPUTS, run(pixels), strict=True))
    # The same picture, its pixels' colors side by side in memory as a decoder leaves them.
    strided = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for value, again in zip(found.values(), run(strided), strict=True):
        np.testing.assert_array_equal(value, again)
    config = checkpoint.config.model_copy(deep=True)
    config.data.input_size = (72, 80)
    model = ggnet.Model(replace(checkpoint, config=config), device="cpu")
    [expected] = model(torch.from_numpy(np.round(pixels * 255) / 255), threshold=0)
    first = expected[0]
    assert found["scores"][0, 0] == pytest.approx(first.score, rel=0.05)
    assert found["verbs"].dtype == np.int64
    assert found["points"].shape == found["human_boxes"][..., :2].shape


@pytest.mark.parametrize("name", [p for p in FORMATS if p.values[0] != "aoti"])
def test_other_networks(tmp_path, name):
    """PPDM's, and the deformable nodes of a backbone."""
    config = Config()
    config.data.input_size = (64, 64)
    config.model.backbone = "resdcn18"
    config.model.aggregation, config.model.apm = "interaction", False
    save_untrained(tmp_path, config)
    network = open_checkpoint(tmp_path)
    network.state["model"] = decided(build_model(config.model, 3, 3))
    out = tmp_path / f"model{EXPORTERS[name].suffix}"
    checked = export(network, name, out, batch=2)
    assert 0 <= checked.box_difference < module.BOX_TOLERANCE


def shift_boxes(found):
    found[2] = found[2] + 0.1


def shift_scores(found):
    found[0] = found[0] + 0.001


def lose_some(found):
    for values in found:
        values[:, 1:9] = values[:, :1]


def add_some(found):
    found[0][:, -9:], found[1][:, -9:] = found[0][:, :9], 1 - found[1][:, :9]


def lose_all(found):
    found[0][:] = np.nan


@pytest.mark.parametrize("change", [shift_boxes, shift_scores, lose_some, add_some, lose_all])
def test_what_differs_is_not_kept(checkpoint, tmp_path, monkeypatch, change):
    load = EXPORTERS["torch"].load

    def wrong(self, path):
        run = load(path)

        def shifted(images):
            found = run(images)
            change(found)
            return found

        return shifted

    monkeypatch.setattr(type(EXPORTERS["torch"]), "load", wrong)
    with pytest.raises(UserError, match=r"does not find .*scores differ .* triplets have boxes"):
        export(checkpoint, "torch", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_is_a_message_and_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def fails(self, program, path):
        path.write_text("half")
        raise RuntimeError("no compiler\nfor this")

    monkeypatch.setattr(type(EXPORTERS["torch"]), "write", fails)
    with pytest.raises(UserError, match=r"cannot be made \(RuntimeError: no compiler for this\)"):
        export(checkpoint, "torch", tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--format openvino needs onnx, onnxscript, openvino: pip"):
        export(checkpoint, "openvino", tmp_path / "model.xml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format_": "tflite"}, "no format 'tflite'; expected one of onnx, openvino, torch, aoti"),
        ({"size": (60, 97)}, "size is 60x97; backbone tiny needs multiples of"),
        ({"batch": 0}, "batch is 0; expected 1 to 64"),
        ({"out": "model.onnx"}, "must end in .pt2"),
        ({"out": "file/model.pt2"}, "cannot write .*model.pt2"),
        ({"gaze_cells": 9}, "eval.gaze_cells=9, whose shapes depend on the image.*expected null"),
    ],
)
def test_bad_settings_are_named(checkpoint, tmp_path, settings, message):
    (tmp_path / "file").write_text("")
    config = checkpoint.config.model_copy(deep=True)
    config.eval.gaze_cells = settings.pop("gaze_cells", None)
    checkpoint = replace(checkpoint, config=config)
    settings = {"format_": "torch", "out": "model.pt2"} | settings
    settings["out"] = tmp_path / settings["out"]
    with pytest.raises(UserError, match=message):
        export(checkpoint, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_command(checkpoint, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "a.png")
    run = str(checkpoint.path.parent)
    out = tmp_path / "out" / "model.pt2"
    args = ["export", run, "--format", "torch", "--out", str(out), "--images", str(photos)]
    assert main(args) == 0
    assert "the same as PyTorch on 1 images" in " ".join(capsys.readouterr().out.split())
    assert out.exists()
    for option, value, message in (
        ("--size", "big", "--size is big; expected HEIGHTxWIDTH"),
        ("--batch", "many", "--batch is many; expected a number or any"),
    ):
        assert main(["export", run, "--format", "torch", option, value]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_cpp_example_finds_the_same(checkpoint, tmp_path):
    export(checkpoint, "aoti", tmp_path / "model.pt2")
    build = ROOT / "examples" / "cpp" / "build.sh"
    subprocess.run([build, sys.executable, tmp_path / "detect"], check=True)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.ppm")
    command = [tmp_path / "detect", tmp_path / "model.pt2", ggnet.ops.LIBRARY, tmp_path / "a.ppm"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # The network's own triplets: the program does not leave out those beyond the image.
    predictor = Predictor.of(checkpoint, "cpu")
    deployed = Deployed(predictor.detector, checkpoint.config.model.stride).eval()
    with torch.no_grad():
        found = deployed(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)
    scores, verbs, labels = (
        found[OUTPUTS.index(n)][0] for n in ("scores", "verbs", "object_labels")
    )
    lines = output.splitlines()
    assert len(lines) == 5
    for line, score in zip(lines, scores.tolist(), strict=False):
        words = line.split()
        assert float(words[0]) == pytest.approx(score, rel=1e-4)
        alike = (scores - score).abs() <= 2e-4 * score  # the order of equal ones is open
        kinds = set(zip(verbs[alike].tolist(), labels[alike].tolist(), strict=True))
        assert (int(words[2]), int(words[4])) in kinds
    Image.fromarray(pixels[:48]).save(tmp_path / "smaller.ppm")
    smaller = subprocess.run([*command[:-1], tmp_path / "smaller.ppm"], capture_output=True)
    assert smaller.returncode == 2
    assert smaller.stdout == b""
    command[-1] = ROOT / "README.md"
    wrong = subprocess.run(command, capture_output=True, text=True)
    assert (wrong.returncode, "is no binary PPM" in wrong.stderr) == (2, True)

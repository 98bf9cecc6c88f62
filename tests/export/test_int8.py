"""`ggnet export --int8`: convolutions in 8 bits, kept only if they find nearly as much."""

import json
import shutil

import numpy as np
import pytest

from ggnet.cli import main
from ggnet.data.annotations import load_dataset
from ggnet.data.images import read_image
from ggnet.engine.checkpoint import open_checkpoint
from ggnet.errors import UserError
from ggnet.export import EXPORTERS
from ggnet.export import int8 as module
from ggnet.export.run import letterboxed_image

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def trained(quick, tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--out", str(run), *quick]) == 0
    return run


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["1", "any"])
def test_it_finds_nearly_the_same(trained, scenes, tmp_path, capsys, batch):
    out = tmp_path / "model.onnx"
    args = ["export", str(trained), "--format", "onnx", "--int8", "--out", str(out)]
    assert main([*args, "--batch", batch]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "6 images of split test" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.json"]
    assert json.loads((tmp_path / "model.onnx.json").read_text())["outputs"][0] == "scores"

    import onnx

    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("QuantizeLinear") > 20
    plain = tmp_path / "float.onnx"
    batch = ["--batch", batch]
    assert main(["export", str(trained), "--format", "onnx", "--out", str(plain), *batch]) == 0
    records = load_dataset(scenes).load("test")[:4]
    images = np.stack([letterboxed_image(read_image(r.path), (64, 64)) for r in records])
    images = images[:1] if batch[1] == "1" else images
    mine, theirs = (EXPORTERS["onnx"].load(path)(images)[0] for path in (out, plain))
    assert mine.shape == theirs.shape
    assert 0 < np.abs(mine - theirs).max() < 0.1


@pytest.mark.slow
def test_a_program_predicts_as_the_network_does(trained, scenes, tmp_path):
    """In float32 the same mean AP, of batches that are not full, too: 6 images in fours."""
    checkpoint = open_checkpoint(trained)
    main(
        ["export", str(trained), "--format", "onnx", "--batch", "4", "--out", f"{tmp_path}/a.onnx"]
    )
    run = EXPORTERS["onnx"].load(tmp_path / "a.onnx")
    given = (checkpoint, checkpoint.config, load_dataset(scenes))
    expected, _ = module._mean_ap(*given, None, None, None)
    found, count = module._mean_ap(*given, run, 4, None)
    assert count == 6
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_one_that_finds_less_is_not_kept(trained, tmp_path, monkeypatch):
    means = iter([(42.0, 6), (40.9, 6)])
    monkeypatch.setattr(module, "_mean_ap", lambda *_: next(means))
    with pytest.raises(
        UserError, match=r"mean AP 40\.90 against 42\.00 on split test.*Nothing was"
    ):
        module.quantize(open_checkpoint(trained), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "openvino", "--int8"], "--int8 goes with --format onnx"),
        (["--format", "onnx", "--int8", "--images", "a"], "with --data in place of --images"),
        (["--format", "onnx", "--data", "a"], "--data goes with --int8"),
        (["--format", "onnx", "--int8", "--out", "a.xml"], "a.xml must end in .onnx"),
        (["--format", "onnx", "--int8", "--data", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_go_together(trained, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    shutil.copy(trained / "best.pt", tmp_path / "best.pt")
    assert main(["export", "best.pt", *options]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def bare(scenes, root):
    """The scenes without a pair in the test split."""
    shutil.copytree(scenes, root)
    entries = json.loads((root / "test.json").read_text())
    for entry in entries:
        entry["hoi_annotation"] = []
    (root / "test.json").write_text(json.dumps(entries))
    return root


@pytest.mark.slow
def test_a_split_without_pairs_proves_nothing(trained, scenes, tmp_path, capsys):
    args = ["export", str(trained), "--format", "onnx", "--int8", "--out", str(tmp_path / "a.onnx")]
    assert main([*args, "--data", str(bare(scenes, tmp_path / "bare"))]) == 2
    assert "split test of" in (said := capsys.readouterr().err)
    assert "has no annotated pair" in said
    assert [path.name for path in tmp_path.iterdir()] == ["bare"]


@pytest.mark.slow
def test_a_quantizer_that_fails_is_a_message(trained, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("no such tensor")

    monkeypatch.setattr(module, "_write", fail)
    with pytest.raises(UserError, match="onnx in 8 bits file cannot be made .KeyError.*was kept"):
        module.quantize(open_checkpoint(trained), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []

"""`ggnet.load` and calling what it returns."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from samples import CUPS

import ggnet
from ggnet import UserError
from ggnet.viz.defaults import THRESHOLD


def values(result):
    """All that a result says but where the image came from."""
    return [(t, t.point) for t in result.above(0)]


def test_importing_is_light():
    code = "import sys, ggnet; assert 'torch' not in sys.modules; ggnet.ops.topk_peaks; ggnet.load"
    # The compiler would take as long again as torch itself.
    code += "; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(ggnet.__all__) <= set(dir(ggnet))
    with pytest.raises(AttributeError, match="no attribute 'detect'; it has Instance, Model"):
        _ = ggnet.detect


def test_every_form_of_an_image_gives_the_same(model, photo, pixels):
    [expected] = model(str(photo))
    assert len(expected.above(0)) > 5
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    alpha = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)
    forms = {
        "path": photo,
        "bytes": photo.read_bytes(),
        "PIL": Image.open(photo),
        "array": pixels,
        "float": pixels / 255,
        "float32": pixels.astype(np.float32) / 255,
        "reversed view": pixels[:, ::-1].copy()[:, ::-1],
        "RGBA": alpha,
        "tensor": tensor,
        "float tensor": tensor / 255,
        "half tensor, batch": (tensor / 255).double()[None],
        "folder": photo.parent,
        "pattern": str(photo.parent / "*.png"),
    }
    for name, form in forms.items():
        [result] = model(form)
        assert values(result) == values(expected), name
        assert np.array_equal(result.image, pixels), name


def test_grey_images(model, pixels):
    grey = pixels[..., 0]
    [a], [b], [c] = (model(x) for x in (grey, grey[..., None], np.stack([grey] * 3, axis=2)))
    assert values(a) == values(b) == values(c)


def test_several_and_streams(model, photo, pixels):
    single = model(photo)[0]
    several = model([str(photo), pixels, Image.open(photo)], batch=2)
    assert len(several) == 3
    for result in several:
        for ours, theirs in zip(result.above(0), single.above(0), strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-5)
    seen = []

    def endless():
        while True:
            seen.append(1)
            yield pixels

    stream = model.stream(endless())
    assert [values(next(stream)) for _ in range(3)] == [values(single)] * 3
    assert len(seen) == 3  # nothing is read ahead
    batch = np.stack([pixels, pixels]).transpose(0, 3, 1, 2)
    assert len(model(torch.from_numpy(batch), batch=2)) == 2
    assert model([]) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((5, 5, 3)) + 200, "values from 0 to 1, and this one has 200 to 200"),
        (np.full((5, 5, 3), np.nan), "values from 0 to 1"),
        (np.zeros((5, 5, 3)) - 0.1, "values from 0 to 1"),
        (np.zeros((5, 5, 3), np.uint16), "dtype uint16; expected uint8, or float"),
        (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\) is no image"),
        (np.zeros((3, 5, 5), np.uint8), "a tensor has its channels first"),
        (np.zeros((0, 5, 3), np.uint8), "is no image"),
        (np.array("abc"), "is no image"),
        (torch.zeros(5, 5, 3), "channels last"),
        (torch.zeros(3, 5, 5) + 2, "from 0 to 1"),
        (torch.zeros(3, 5, 5, dtype=torch.int64), "dtype int64"),
        (b"not an image", "the bytes: not an image"),
        ("nowhere.jpg", "no image or folder at nowhere.jpg"),
        ("*.nothing", "no file matches"),
        (3.5, "cannot predict on a float"),
        ({"image": 1}, "cannot predict on a dict"),
        (None, "cannot predict on a NoneType"),
    ],
)
def test_what_is_no_image_is_named(model, source, message):
    with pytest.raises(UserError, match=message):
        model(source)


def test_threshold_is_the_runs_own(model, run, photo, tmp_path):
    assert model.threshold == 0.05
    [result] = model(photo)
    assert result.threshold == 0.05
    assert all(t.score >= 0.05 for t in result)
    assert model(photo, threshold=0.2)[0].threshold == 0.2
    with pytest.raises(UserError, match="threshold is 2; expected a score from 0 to 1"):
        model(photo, threshold=2)
    with pytest.raises(UserError, match="batch is 0"):
        model(photo, batch=0)
    bare = tmp_path / "bare.pt"
    bare.write_bytes((run / "best.pt").read_bytes())
    assert ggnet.load(bare).threshold == THRESHOLD
    (tmp_path / "metrics.json").write_text('{"best_f1": {}}')
    with pytest.raises(UserError, match="evaluate the run again"):
        ggnet.load(bare)


def test_names(model):
    assert (model.objects, model.verbs) == (CUPS.objects, CUPS.verbs)
    assert "3 verbs, 3 objects, threshold 0.05" in repr(model)


def test_half_and_compiled_settings_are_checked(run):
    with pytest.raises(UserError, match="dtype is 'int8'; expected one of float32, bfloat16"):
        ggnet.load(run, dtype="int8")
    with pytest.raises(UserError, match="capture makes a CUDA graph, and the device is cpu"):
        ggnet.load(run, device="cpu", capture=True)
    with pytest.raises(UserError, match="device is 'tpu'"):
        ggnet.load(run, device="tpu")


def test_bfloat16_finds_nearly_the_same(run, photo):
    full, half = (ggnet.load(run, device="cpu", dtype=d)(photo)[0] for d in ("float32", "bfloat16"))
    assert half.best.score == pytest.approx(full.best.score, rel=0.05)
    assert half.best.score != full.best.score


@pytest.mark.slow
def test_compiled_finds_the_same(run, photo, model):
    [expected] = model(photo)
    [compiled] = ggnet.load(run, device="cpu", compile=True)(photo)
    assert [t.verb for t in compiled.above(0)] == [t.verb for t in expected.above(0)]
    for ours, theirs in zip(compiled.above(0), expected.above(0), strict=True):
        assert ours.score == pytest.approx(theirs.score, rel=1e-3)
        assert ours.object.box == pytest.approx(theirs.object.box, abs=0.05)


def test_pretrained_folder_is_the_same_network(model, photo, tmp_path):
    pytest.importorskip("safetensors")
    model.save_pretrained(tmp_path / "cups")
    assert sorted(p.name for p in (tmp_path / "cups").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    for again in (
        ggnet.load(tmp_path / "cups", device="cpu"),
        ggnet.Model.from_pretrained(tmp_path / "cups", device="cpu"),
    ):
        assert again.threshold == model.threshold
        assert values(again(photo)[0]) == values(model(photo)[0])


def test_broken_pretrained_folders_are_named(model, run, tmp_path):
    pytest.importorskip("safetensors")
    folder = tmp_path / "cups"
    model.save_pretrained(folder)
    good = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(good[:-100])
    with pytest.raises(UserError, match="truncated or corrupt"):
        ggnet.load(folder)
    (folder / "model.safetensors").write_bytes(good)
    config = json.loads((folder / "config.json").read_text())
    for changes, message in (
        ({"format": "other"}, "not of this package"),
        ({"version": 9}, "has version 9"),
        ({"vocabulary": {}}, "is broken"),
        ({"config": {"modle": {}}}, "modle"),
    ):
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=message):
            ggnet.load(folder)
    with pytest.raises(UserError, match=r"holds no config.json and model.safetensors.*ggnet.load"):
        ggnet.Model.from_pretrained(run)


def test_missing_hub_package_is_named(model, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub safetensors"):
        ggnet.load("someone/ggnet-hico")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="needs safetensors: pip install safetensors"):
        model.save_pretrained(tmp_path / "cups")
    assert not (tmp_path / "cups").exists()

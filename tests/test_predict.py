"""`ggnet predict` on folders as users have them."""

import inspect
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from samples import CUPS, save_untrained

from ggnet.cli import build_parser
from ggnet.config import Config
from ggnet.data.images import read_image
from ggnet.engine import predict as module
from ggnet.engine.predict import picture_names, predict
from ggnet.errors import UserError
from ggnet.eval.predictions import read_predictions
from ggnet.viz.draw import draw_comparison, draw_predictions


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A run folder with an untrained network."""
    config = Config()
    config.data.input_size = (64, 64)
    folder = tmp_path_factory.mktemp("run")
    save_untrained(folder, config)
    return folder


@pytest.fixture
def photos(tmp_path):
    """A folder with two good images, one rotated by EXIF."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (400, 600, 3), dtype=np.uint8))
    image.save(folder / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert("L").save(folder / "b.png", exif=exif)
    return folder


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def said(console):
    return console.file.getvalue()


def test_folder_gives_json_and_pictures_of_the_images_size(photos, checkpoint, console, tmp_path):
    out = tmp_path / "out"
    assert predict([photos], checkpoint, out, threshold=0, console=console) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "predictions.json"]
    assert read_image(out / "a.png").shape == (400, 600, 3)
    assert read_image(out / "b.png").shape == (600, 400, 3)  # upright
    first, second = read_predictions(out / "predictions.json", CUPS)
    assert (first.image_id, first.file_name) == ("a", str(photos / "a.jpg"))
    assert second.object_boxes[:, 3].max() > 400
    assert len(first) > 1
    assert "2 images" in said(console)


def test_json_has_every_triplet_whatever_is_drawn(photos, checkpoint, console, tmp_path):
    for name, settings in (("all", {"threshold": 0.0}), ("none", {"threshold": 1.0})):
        predict([photos], checkpoint, tmp_path / name, console=console, **settings)
    texts = [(tmp_path / name / "predictions.json").read_text() for name in ("all", "none")]
    assert texts[0] == texts[1]
    pictures = [read_image(tmp_path / name / "a.png") for name in ("all", "none")]
    assert (pictures[0] != pictures[1]).any()


def test_single_image_lists_its_triplets(photos, checkpoint, console, tmp_path):
    assert (
        predict([photos / "a.jpg"], checkpoint, tmp_path, threshold=0, top=3, console=console) == 0
    )
    assert sum(said(console).count(name) for name in CUPS.objects[1:]) == 3


def test_broken_files_are_named_and_the_rest_goes_on(photos, checkpoint, console, tmp_path):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:5000])
    (photos / "letter.jpg").write_text("dear diary")
    (photos / "notes.txt").write_text("dear diary")
    (photos / "._a.jpg").write_text("left by another system")
    assert predict([photos], checkpoint, tmp_path / "out", console=console) == 1
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [entry["image_id"] for entry in entries] == ["a", "b"]
    for problem in (r"broken.jpg: the image cannot be decoded", r"letter.jpg: not an image"):
        assert problem in said(console)
    assert "not images by their suffix" in said(console)
    assert "notes.txt" in said(console)
    assert "._a" not in said(console)


def test_nothing_readable_is_an_error(photos, checkpoint, console, tmp_path):
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"(?s)none of the images.*a\.jpg: the file is empty.*b\.png"
    ):
        predict([photos], checkpoint, tmp_path / "out", console=console)
    assert not (tmp_path / "out").exists()


def test_no_images_is_an_error(checkpoint, console, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="no images in"):
        predict([tmp_path], checkpoint, tmp_path / "out", console=console)
    with pytest.raises(UserError, match="no image or folder at .*nowhere"):
        predict([tmp_path / "nowhere"], checkpoint, tmp_path / "out", console=console)


def test_file_given_twice_is_done_once(photos, checkpoint, console, tmp_path):
    sources = [photos / "a.jpg", photos, photos / ".." / "photos" / "a.jpg"]
    predict(sources, checkpoint, tmp_path / "out", console=console)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [entry["image_id"] for entry in entries] == ["a", "b"]


def test_inputs_are_never_replaced(photos, checkpoint, console):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    with pytest.raises(UserError, match=r"b\.png would replace the input.*--out"):
        predict([photos], checkpoint, photos, console=console)
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_same_stem_gives_different_pictures(tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "A.png", "x/a.jpg", "a_jpg.bmp", "c.jpg")]
    names = picture_names(paths)
    assert names == ["a_jpg", "A_png", "a_jpg_2", "a_jpg_3", "c"]


def test_gaze_pictures(photos, checkpoint, console, tmp_path):
    predict([photos], checkpoint, tmp_path / "out", actpoints=True, threshold=0, console=console)
    page = read_image(tmp_path / "out" / "gaze" / "a.png")
    assert page.shape[1] > 2 * 600


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.5), ("threshold", -1), ("top", 0)])
def test_bad_settings_are_named(photos, checkpoint, console, tmp_path, name, value):
    with pytest.raises(UserError, match=f"--{name} is {value}"):
        predict([photos], checkpoint, tmp_path / "out", console=console, **{name: value})


def test_interrupted_run_keeps_what_it_found(photos, checkpoint, console, tmp_path, monkeypatch):
    read = iter([module.read_image, None])

    def interrupted(path):
        function = next(read)
        if function is None:
            raise KeyboardInterrupt
        return function(path)

    monkeypatch.setattr(module, "read_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict([photos], checkpoint, tmp_path / "out", console=console)
    [first] = read_predictions(tmp_path / "out" / "predictions.json", CUPS)
    assert first.image_id == "a"


def test_folder_without_permission_is_named(photos, checkpoint, console, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        predict([photos], checkpoint, tmp_path / "file" / "out", console=console)


def test_command_line_draws_as_the_library_does():
    args = build_parser().parse_args(["predict", "a.jpg", "--checkpoint", "run"])
    for function in (predict, draw_predictions, draw_comparison):
        defaults = inspect.signature(function).parameters
        assert (args.threshold, args.top) == (
            defaults["threshold"].default,
            defaults["top"].default,
        )

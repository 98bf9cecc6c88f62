"""`ggnet predict` on folders as users have them."""

import inspect
import io
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from samples import CUPS, save_untrained

from ggnet.api import predict as module
from ggnet.api.model import load
from ggnet.api.predict import result_names
from ggnet.cli import build_parser, main
from ggnet.config import Config
from ggnet.data.images import read_image
from ggnet.data.inputs import File, find_inputs
from ggnet.errors import UserError
from ggnet.eval.predictions import read_predictions
from ggnet.viz.draw import draw_comparison, draw_predictions


def predict(sources, *settings, recursive=False, **more):
    return module.predict(find_inputs(sources, recursive=recursive), *settings, **more)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """An untrained network."""
    config = Config()
    config.data.input_size = (64, 64)
    folder = tmp_path_factory.mktemp("run")
    save_untrained(folder, config)
    return load(folder, device="cpu")


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


def test_folder_gives_json_and_pictures_of_the_images_size(photos, network, console, tmp_path):
    out = tmp_path / "out"
    assert predict([photos], network, out, threshold=0, top=5, console=console) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "predictions.json"]
    assert read_image(out / "a.png").shape == (400, 600, 3)
    assert read_image(out / "b.png").shape == (600, 400, 3)  # upright
    first, second = read_predictions(out / "predictions.json", CUPS)
    assert (first.image_id, first.file_name) == ("a", str(photos / "a.jpg"))
    assert second.object_boxes[:, 3].max() > 400
    assert len(first) > 1
    assert "2 images" in said(console)


def test_json_has_every_triplet_whatever_is_drawn(photos, network, console, tmp_path):
    for name, settings in (("all", {"threshold": 0.0}), ("none", {"threshold": 1.0})):
        predict([photos], network, tmp_path / name, top=5, console=console, **settings)
    texts = [(tmp_path / name / "predictions.json").read_text() for name in ("all", "none")]
    assert texts[0] == texts[1]
    pictures = [read_image(tmp_path / name / "a.png") for name in ("all", "none")]
    assert (pictures[0] != pictures[1]).any()


def test_single_image_lists_its_triplets(photos, network, console, tmp_path):
    assert predict([photos / "a.jpg"], network, tmp_path, threshold=0, top=3, console=console) == 0
    assert sum(said(console).count(name) for name in CUPS.objects[1:]) == 3


def test_broken_files_are_named_and_the_rest_goes_on(photos, network, console, tmp_path):
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:5000])
    (photos / "letter.jpg").write_text("dear diary")
    (photos / "notes.txt").write_text("dear diary")
    (photos / "._a.jpg").write_text("left by another system")
    assert predict([photos], network, tmp_path / "out", console=console) == 1
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [entry["image_id"] for entry in entries] == ["a", "b"]
    for problem in (r"broken.jpg: the image cannot be decoded", r"letter.jpg: not an image"):
        assert problem in said(console)
    assert "not images by their suffix" in said(console)
    assert "notes.txt" in said(console)
    assert "._a" not in said(console)


def test_nothing_readable_is_an_error(photos, network, console, tmp_path):
    for path in photos.iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"(?s)none of the images.*a\.jpg: the file is empty.*b\.png"
    ):
        predict([photos], network, tmp_path / "out", console=console)
    assert not (tmp_path / "out").exists()


def test_no_images_is_an_error(network, console, tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="no images in"):
        predict([tmp_path], network, tmp_path / "out", console=console)
    with pytest.raises(UserError, match="no image or folder at .*nowhere"):
        predict([tmp_path / "nowhere"], network, tmp_path / "out", console=console)


def test_file_given_twice_is_done_once(photos, network, console, tmp_path):
    sources = [photos / "a.jpg", photos, photos / ".." / "photos" / "a.jpg"]
    predict(sources, network, tmp_path / "out", console=console)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [entry["image_id"] for entry in entries] == ["a", "b"]


def test_inputs_are_never_replaced(photos, network, console):
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    with pytest.raises(UserError, match=r"b\.png would replace the input.*--out"):
        predict([photos], network, photos, console=console)
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_same_stem_gives_different_pictures(tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "A.png", "x/a.jpg", "a_jpg.bmp", "c.jpg")]
    names = result_names([File(path) for path in paths])
    assert names == ["a_jpg", "A_png", "a_jpg_2", "a_jpg_3", "c"]


def test_gaze_pictures(photos, network, console, tmp_path):
    predict([photos], network, tmp_path / "out", actpoints=True, threshold=0, console=console)
    page = read_image(tmp_path / "out" / "gaze" / "a.png")
    assert page.shape[1] > 2 * 600


@pytest.mark.parametrize(("name", "value"), [("threshold", 1.5), ("threshold", -1), ("top", 0)])
def test_bad_settings_are_named(photos, network, console, tmp_path, name, value):
    with pytest.raises(UserError, match=f"{name} is {value}"):
        predict([photos], network, tmp_path / "out", console=console, **{name: value})


def test_interrupted_run_keeps_what_it_found(photos, network, console, tmp_path, monkeypatch):
    looks = []

    def interrupted(frames, threshold):
        looks.append(frames)
        if len(looks) == 2:
            raise KeyboardInterrupt
        return type(network).look(network, frames, threshold)

    monkeypatch.setattr(network, "look", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict([photos], network, tmp_path / "out", console=console)
    [first] = read_predictions(tmp_path / "out" / "predictions.json", CUPS)
    assert first.image_id == "a"
    assert "1 picture and predictions.json" in said(console)
    assert "stopped after 1 image" in said(console)


def test_folder_without_permission_is_named(photos, network, console, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        predict([photos], network, tmp_path / "file" / "out", console=console)


def test_command_line_draws_as_the_library_does():
    args = build_parser().parse_args(["predict", "a.jpg", "--checkpoint", "run"])
    for function in (module.predict, draw_predictions, draw_comparison):
        assert args.top == inspect.signature(function).parameters["top"].default
    assert (
        args.threshold is None is inspect.signature(module.predict).parameters["threshold"].default
    )


def video(path, images, fps=10):
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, (width, height))
    for image in images:
        writer.write(image[..., ::-1].copy())
    writer.release()


def frames_of(path):
    [one] = find_inputs([path]).inputs
    return list(one.frames())


@pytest.fixture
def clip(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "clips" / "walk.avi"
    path.parent.mkdir()
    still = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    video(path, [np.roll(still, 4 * n, axis=1) for n in range(8)], fps=5)
    return path


def test_video_gives_a_video_and_a_line_a_frame(clip, photos, network, console, tmp_path):
    out = tmp_path / "out"
    assert predict([clip, photos], network, out, threshold=0.0, batch=3, console=console) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        *("a.png", "b.png", "predictions.json", "walk.jsonl", "walk.mp4"),
    ]
    lines = [json.loads(line) for line in (out / "walk.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(8))
    assert lines[5]["seconds"] == 1.0
    expected = network(str(clip), threshold=0.0)
    for line, result in zip(lines, expected, strict=True):
        assert len(line["triplets"]) == len(result) > 5
        assert line["triplets"][0]["score"] == pytest.approx(result[0].score, rel=1e-4)
    drawn = frames_of(out / "walk.mp4")
    assert len(drawn) == 8
    picture = expected[0].plot(listed=False)
    assert drawn[0].image.shape[0] == picture.shape[0] // 2 * 2
    assert "2 pictures, 1 video and predictions.json" in said(console)
    assert len(read_predictions(out / "predictions.json", CUPS)) == 2


def test_what_came_before_a_break_in_a_video_is_kept(clip, network, console, tmp_path):
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    assert predict([clip], network, tmp_path / "out", console=console) == 1
    count = len((tmp_path / "out" / "walk.jsonl").read_text().splitlines())
    assert 3 <= count < 8
    assert len(frames_of(tmp_path / "out" / "walk.mp4")) == count
    assert f"ends after frame {count} of 8" in said(console)


def test_two_runs_results_are_never_mixed(photos, network, console, tmp_path):
    predict([photos], network, tmp_path / "out", console=console)
    with pytest.raises(UserError, match="holds the results of another run; name another"):
        predict([photos / "a.jpg"], network, tmp_path / "out", console=console)


def test_folders_are_numbered(photos, network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for expected in ("predict", "predict-2"):
        args = ["predict", str(photos), "--checkpoint", str(network.source), "--device", "cpu"]
        assert main(args) == 0
        assert (tmp_path / "runs" / expected / "predictions.json").exists()
        assert f"runs/{expected}" in capsys.readouterr().out


def test_json_on_stdout_is_all_that_is_there(photos, network, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = ["predict", str(photos), "--checkpoint", str(network.source), "--json"]
    assert main([*args, "--threshold", "0"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == [str(photos / "a.jpg"), str(photos / "b.png")]
    assert (lines[0]["width"], lines[0]["height"]) == (600, 400)
    assert {"human", "verb", "object", "score"} <= lines[0]["triplets"][0].keys()
    assert not (tmp_path / "runs").exists()


def test_nothing_found_says_why(photos, network, console, tmp_path):
    predict([photos], network, tmp_path / "out", threshold=1.0, console=console)
    text = said(console)
    assert "0 interactions of score 1 or more in 2 images" in text
    shown = float(re.search(r"show it with --threshold ([\d.]+)", text)[1])
    assert "knows 3 verbs (hold, drink, throw) and, beside people, 2 objects (ball, cup)" in text
    again = Console(file=io.StringIO(), width=200)
    predict([photos], network, tmp_path / "again", threshold=shown, console=again)
    assert re.search(r"[1-9]\d* interactions? of score", said(again))


def test_subfolders_keep_their_names(photos, network, console, tmp_path):
    (photos / "cam").mkdir()
    (photos / "a.jpg").rename(photos / "cam" / "a.jpg")
    predict([photos], network, tmp_path / "out", console=console)
    assert "folders not searched" in said(console)
    assert "cam" in said(console)
    predict([photos], network, tmp_path / "all", recursive=True, console=console)
    assert (tmp_path / "all" / "cam" / "a.png").exists()
    found = read_predictions(tmp_path / "all" / "predictions.json", CUPS)
    assert [p.image_id for p in found] == ["b", "cam/a"]
    assert found[1].size == (600, 400)
    assert found[1].human_scores.max() <= 1


def test_closed_pipe_is_a_message(photos, network, tmp_path):
    command = [sys.executable, "-m", "ggnet", "predict", str(photos), "--json", "--threshold", "0"]
    process = subprocess.Popen(
        [*command, "--checkpoint", str(network.source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.strip() == "error: what reads the output has closed it; not all was written"

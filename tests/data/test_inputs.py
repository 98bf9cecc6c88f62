"""Images from wherever a user has them."""

import http.server
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ggnet.data.images import read_image
from ggnet.data.inputs import File, Url, Video, find_inputs
from ggnet.errors import UserError

SIZE = (48, 64)  # height, width


def picture(seed):
    """Smooth, so that a video codec keeps it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    channels = [(2 * x + 5 * seed) % 256, 4 * y, np.full_like(x, 20 * seed % 256)]
    return np.stack(channels, axis=2).astype(np.uint8)


def write_video(path, frames, codec="MJPG", fps=10):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, SIZE[::-1])
    assert writer.isOpened()
    for number in range(frames):
        writer.write(picture(number)[..., ::-1].copy())
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path):
    """Two images here, one in each of two folders below, a link to a folder, notes."""
    for name in ("b.png", "a.png", "cam1/one.png", "cam2/two.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(picture(len(name))).save(path)
    (tmp_path / "photos" / "notes.md").write_text("dear diary")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "photos", target_is_directory=True)
    return tmp_path / "photos"


def names(found):
    return [one.stem for one in found.inputs]


def frames(source):
    [one] = find_inputs([source]).inputs
    return list(one.frames())


def test_folder(folder):
    found = find_inputs([folder])
    assert names(found) == ["a", "b"]
    assert found.passed_over == [folder / "notes.md"]
    assert found.folders == [folder / name for name in ("cam1", "cam2", "linked")]


def test_recursive(folder):
    found = find_inputs([folder], recursive=True)
    assert names(found) == ["a", "b", "cam1/one", "cam2/two"]
    assert found.folders == [folder / "linked"]


def test_only_subfolders_is_told_how_to_search_them(folder):
    (folder / "a.png").unlink()
    (folder / "b.png").unlink()
    with pytest.raises(UserError, match=r"the folders cam1, cam2, linked: search.*--recursive"):
        find_inputs([folder])


def test_patterns_and_lists(folder, tmp_path, monkeypatch):
    assert names(find_inputs([folder / "cam*" / "*"])) == ["one", "two"]
    assert names(find_inputs([folder / "**" / "t*.png"])) == ["two"]
    found = find_inputs([folder / "*"])
    assert (names(found), found.passed_over) == (["a", "b"], [folder / "notes.md"])
    listed = folder / "list.txt"
    listed.write_text(f"# mine\ncam2/two.png\n\n{folder / 'a.png'}\ncam1\n")
    assert names(find_inputs([listed])) == ["two", "a", "one"]
    listed.write_text("a.png\nmissing.png\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: no image or folder at .*missing"):
        find_inputs([listed])
    listed.write_text("list.txt\n")
    with pytest.raises(UserError, match="line 1: a list in a list"):
        find_inputs([listed])
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8 text"):
        find_inputs([listed])


def test_each_file_once(folder):
    assert names(find_inputs([folder / "a.png", folder, folder / ".." / "photos" / "b.png"])) == [
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jpg", "no image or folder at nowhere.jpg"),
        ("nothing*.jpg", "no file matches"),
        ("ftp://host/a.jpg", "expected http, https, rtsp or rtmp"),
        ("paper.pdf", r"paper.pdf is a PDF.*pdftoppm"),
    ],
)
def test_what_is_no_source_is_named(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("paper.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(UserError, match=message):
        find_inputs([source])


def test_fifos_and_devices_never_hang(tmp_path):
    for name in ("a.jpg", "a.mp4", "a.txt"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=r"is a FIFO; expected a file"):
            frames(tmp_path / name)
    with pytest.raises(UserError, match=r"zero is a device or socket"):
        frames("/dev/zero")


def test_video(tmp_path):
    found = frames(write_video(tmp_path / "clip.avi", 12))
    assert [frame.index for frame in found] == list(range(12))
    assert [frame.seconds for frame in found] == pytest.approx([n / 10 for n in range(12)])
    for number, frame in enumerate(found):
        assert np.abs(frame.image.astype(int) - picture(number)).mean() < 6  # RGB, in order
    assert {frame.name for frame in found} == {str(tmp_path / "clip.avi")}


def test_broken_video_gives_what_came_before(tmp_path):
    path = write_video(tmp_path / "clip.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    [one] = find_inputs([path]).inputs
    stream, seen = one.frames(), []
    with pytest.raises(UserError, match=r"clip\.avi ends after frame \d+ of 40.*cut short"):
        seen.extend(frame.index for frame in stream)
    assert seen == list(range(len(seen)))
    assert 10 < len(seen) < 30
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a video that OpenCV can decode"):
        list(one.frames())


def test_camera_that_is_not_there():
    [one] = find_inputs(["camera:97"]).inputs
    assert (type(one), one.stem) == (Video, "camera_97")
    with pytest.raises(UserError, match="no camera 97 can be opened"):
        list(one.frames())


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_give_every_frame(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    images = [Image.fromarray(picture(n)) for n in range(3)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=200, lossless=True)
    found = frames(path)
    assert [(frame.index, frame.seconds) for frame in found] == [
        (n, pytest.approx(n / 5)) for n in range(3)
    ]
    assert np.array_equal(found[0].image, read_image(path))
    assert (found[0].image != found[2].image).any()
    images[0].save(path, lossless=True)
    [single] = frames(path)
    assert (single.index, single.seconds) == (None, None)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    handler = lambda *args: Handler(*args, directory=str(folder))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_url(server, folder):
    url = f"{server}/cam1/one.png?size=large"
    [one] = find_inputs([url]).inputs
    assert (type(one), one.stem) == (Url, "one")
    [frame] = one.frames()
    assert np.array_equal(frame.image, read_image(folder / "cam1" / "one.png"))
    for name, message in (
        ("missing.png", "the server answers 404"),
        ("notes.md", "not an image in a known format"),
    ):
        with pytest.raises(UserError, match=message):
            frames(f"{server}/{name}")


def test_url_without_network_is_refused(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError, match=r"cannot read http://127.*refused.*network"):
        frames("http://127.0.0.1:9/a.jpg")


def test_results_are_named_after_files(folder):
    assert File(folder / "a.png").suffix == ".png"
    assert find_inputs(["rtsp://host/live/cam1"]).inputs[0].stem == "cam1"

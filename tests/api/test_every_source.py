"""A hundred images through every way in: the same triplets, to the bit."""

import functools
import http.server
import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from samples import save_untrained

import ggnet
from ggnet.cli import main
from ggnet.config import Config
from ggnet.data.images import read_image
from ggnet.data.inputs import Frame
from ggnet.data.scenes import generate

SCENES, PHOTOS = 92, 8
PATTERN = "*.[jp][np]g"


def scenes(folder):
    generate(folder, train=SCENES - 1, test=1, workers=1)
    return sorted((folder / "images").rglob("*.png"))


def photos(folder):
    beside = Path(__file__).parents[2].parent / "shared" / "data" / "photos"
    if not beside.is_dir():
        pytest.skip(f"no photos at {beside}")
    return sorted(beside.glob("*.jpg"))


@pytest.fixture(scope="module", params=[scenes, photos], ids=lambda function: function.__name__)
def folder(request, tmp_path_factory):
    """A folder of nothing but images."""
    place = tmp_path_factory.mktemp("images")
    found = request.param(tmp_path_factory.mktemp("source"))
    assert len(found) == {scenes: SCENES, photos: PHOTOS}[request.param]
    for number, path in enumerate(found):
        height, width = read_image(path).shape[:2]
        if height % 2 or width % 2:  # which OpenCV's encoders do not take
            even = Image.open(path).crop((0, 0, width // 2 * 2, height // 2 * 2))
            even.save(place / f"{number:03}.png")
        else:
            (place / f"{number:03}{path.suffix}").symlink_to(path)
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = Config()
    config.data.input_size = (64, 96)
    config.model.width = 16
    place = tmp_path_factory.mktemp("run")
    save_untrained(place, config)
    return place


@pytest.fixture(scope="module")
def model(run):
    return ggnet.load(run, device="cpu")


def triplets(results):
    """Sizes and all triplets, as the JSON of the command line has them."""
    found = [result.to_dict() for result in results]
    return [(one["width"], one["height"], one["triplets"]) for one in found]


@pytest.fixture(scope="module")
def expected(model, folder):
    """Of the files' pixels, an image at a time."""
    return triplets(model.look([frame])[0].above(0) for frame in map(frame_of, paths(folder)))


def frame_of(path):
    return Frame(read_image(path), "pixels")


def paths(folder):
    return sorted(folder.iterdir())


def write_list(folder):
    listed = folder.with_suffix(".txt")
    listed.write_text("".join(f"{path}\n" for path in paths(folder)))
    return listed


def videos(folder):
    """FFV1 keeps every pixel; a video for each size, as files in their order."""
    images = [read_image(path) for path in paths(folder)]
    films, writer, size = [], None, None
    for image in images:
        if image.shape != size:
            size = image.shape
            films.append(folder.with_name(f"{folder.name}-{len(films)}.avi"))
            codec = cv2.VideoWriter.fourcc(*"FFV1")
            writer = cv2.VideoWriter(str(films[-1]), codec, 5, (size[1], size[0]))
            assert writer.isOpened()
        writer.write(image[..., ::-1].copy())
    del writer  # closes it
    return films


def floats(image):
    return (image / 255).astype(np.float32)


def tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)


SOURCES = {
    "path": lambda folder: [str(path) for path in paths(folder)],
    "Path": paths,
    "folder": str,
    "pattern": lambda folder: str(folder / PATTERN),
    "list": write_list,
    "bytes": lambda folder: [path.read_bytes() for path in paths(folder)],
    "PIL": lambda folder: [Image.open(path) for path in paths(folder)],
    "array, uint8": lambda folder: [read_image(path) for path in paths(folder)],
    "array, float": lambda folder: [floats(read_image(path)) for path in paths(folder)],
    "tensor, uint8": lambda folder: [tensor(read_image(path)) for path in paths(folder)],
    "tensor, float": lambda folder: [tensor(floats(read_image(path))) for path in paths(folder)],
    "generator": lambda folder: (read_image(path) for path in paths(folder)),
    "video": videos,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_python(model, folder, expected, source):
    assert triplets(model(SOURCES[source](folder), threshold=0)) == expected


@pytest.mark.slow
def test_urls(model, folder, expected):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{address}/{path.name}" for path in paths(folder)]
        assert triplets(model(urls, threshold=0)) == expected
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["path", "folder", "pattern", "list", "video"])
def test_command_line(run, folder, expected, source, capsys):
    given = SOURCES[source](folder)
    given = [given] if isinstance(given, str | Path) else given
    arguments = [*map(str, given), "--checkpoint", str(run), "--threshold", "0", "--json"]
    assert main(["predict", *arguments, "--device", "cpu"]) == 0
    found = map(json.loads, capsys.readouterr().out.splitlines())
    plain = json.loads(json.dumps(expected))  # tuples as lists
    assert [[one["width"], one["height"], one["triplets"]] for one in found] == plain


@pytest.mark.slow
def test_in_batches(model, folder, expected):
    """Other sums' order: the same triplets, scores and boxes to rounding."""
    found = triplets(model(str(folder), threshold=0, batch=7))
    for (*size, mine), (*own_size, theirs) in zip(found, expected, strict=True):
        assert size == own_size
        best = [(t["verb"], t["object"]["name"]) for t in mine[:3]]
        assert best == [(t["verb"], t["object"]["name"]) for t in theirs[:3]]
        scores, own = ([t["score"] for t in some] for some in (mine, theirs))
        assert scores == pytest.approx(own, abs=1e-5)

"""One way into the network, for training, evaluation and prediction alike."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from samples import CUPS

from ggnet.config import Config, DataConfig
from ggnet.data import transforms
from ggnet.data.annotations import ImageRecord
from ggnet.data.dataset import make_loader
from ggnet.data.images import open_image, read_image
from ggnet.data.preprocess import normalize_bytes, preprocess, stack_bytes, stack_inputs
from ggnet.engine.inference import Predictor
from ggnet.models import build_model

SIZE = (96, 128)  # height, width
CONFIG = DataConfig(input_size=SIZE)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def network_input(image, config, rng=None):
    """(height, width, 3), as the network sees it."""
    return stack_inputs([preprocess(image, config, rng=rng)])[0].permute(1, 2, 0).numpy()


def test_letterbox_keeps_the_aspect_and_pads_with_black():
    found = preprocess(np.full((50, 200, 3), 255, np.uint8), CONFIG, file_name="a.jpg")
    pixels, meta = found.pixels, found.meta
    assert pixels.shape == (*SIZE, 3)
    assert (meta.file_name, meta.width, meta.height) == ("a.jpg", 200, 50)
    bright = pixels[:, :, 0] > 0
    assert bright[32:64].all()  # 200x50 becomes 128x32 in the middle of 128x96
    assert not bright[:32].any()
    assert not bright[64:].any()
    corners = transforms.transform_boxes(np.array([[0, 0, 200, 50.0]]), meta.affine)
    np.testing.assert_allclose(corners, [[0, 32, 128, 64]])


def test_rgb_is_normalized():
    image = np.zeros((96, 128, 3), np.uint8)
    image[:, :, 0] = 255
    pixels = network_input(image, CONFIG)
    expected = (np.array([1, 0, 0]) - transforms.MEAN) / transforms.STD
    np.testing.assert_allclose(pixels[48, 64], expected, rtol=1e-5)


def test_original_samples_as_the_published_code_does():
    """CenterNet's warpAffine with pixel indices for edges: no half-pixel shift, no averaging."""
    image = noise(301, 407)
    config = DataConfig(input_size=SIZE, compat="original")
    pixels, affine = network_input(image, config), preprocess(image, config).meta.affine
    warped = cv2.warpAffine(image, affine, SIZE[::-1], flags=cv2.INTER_LINEAR) / 255.0
    np.testing.assert_allclose(pixels, (warped - transforms.MEAN) / transforms.STD, atol=1e-5)
    assert np.abs(network_input(image, CONFIG) - pixels).mean() > 0.1


def test_augmentation_is_trainings_alone():
    image = noise(60, 90)
    still = network_input(image, CONFIG)
    random = [network_input(image, CONFIG, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(random[0], random[1])
    assert not np.array_equal(random[0], random[2])
    off = DataConfig(input_size=SIZE, augment=False)
    np.testing.assert_array_equal(network_input(image, off, np.random.default_rng(0)), still)


@pytest.mark.parametrize("color", [True, False])
def test_a_device_gets_bytes_and_makes_the_same_of_them(color):
    """In a quarter of the memory: what `Batch.to` computes is what the loader's processes do."""
    config = DataConfig(input_size=SIZE, color=color)
    inputs = [
        preprocess(noise(70 + seed, 90, seed), config, rng=np.random.default_rng(seed))
        for seed in range(5)
    ]
    pixels, colors = stack_bytes(inputs)
    assert pixels.dtype == torch.uint8
    mine, expected = normalize_bytes(pixels, colors), stack_inputs(inputs)
    assert mine.stride() == expected.stride()
    if color:
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
    else:
        assert torch.equal(mine, expected)


def waves(x, y):
    """Grey at these pixels' edges."""
    return 127 + 120 * np.sin(x / 40) * np.cos(y / 50)


def test_evaluation_reads_every_pixel_of_a_large_photo_and_training_what_it_needs(tmp_path):
    """libjpeg decodes a quarter; what comes of it is where it belongs."""
    y, x = np.mgrid[:600, :800] + 0.5
    path = tmp_path / "a.jpg"
    Image.fromarray(waves(x, y).round().astype(np.uint8)).save(path, quality=98)
    config = DataConfig(input_size=SIZE, color=False)
    with open_image(path) as file:
        whole = network_input(read_image(path), CONFIG)
        np.testing.assert_array_equal(network_input(file, CONFIG), whole)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    for seed in range(4):
        with open_image(path) as file:
            found = preprocess(file, config, rng=np.random.default_rng(seed))
            assert file.read_reduced(transforms.reduction(found.meta.affine))[1] == 4
        assert (found.meta.width, found.meta.height) == (800, 600)
        inverse = transforms.invert_affine(found.meta.affine)
        there_x, there_y = x * inverse[0, 0] + inverse[0, 2], y * inverse[1, 1] + inverse[1, 2]
        inside = (abs(there_x - 400) < 385) & (abs(there_y - 300) < 285)
        expected = waves(there_x, there_y)[inside]
        np.testing.assert_allclose(found.pixels[inside, 0], expected, atol=2)


@pytest.mark.parametrize("compat", ["none", "original"])
def test_prediction_sees_what_evaluation_and_training_see(tmp_path, compat):
    config = Config()
    config.data = DataConfig(input_size=SIZE, compat=compat, augment=False, workers=0)
    records = []
    for number, size in enumerate([(33, 34), (301, 407), (97, 50), (480, 640), (1, 300)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(noise(*size, seed=number)).save(path)
        boxes = np.array([[0, 0, 1, 1]], np.float32)
        nothing = np.zeros((0, 3), np.int64)
        records.append(ImageRecord(path.name, path.stem, path, boxes, np.array([0]), nothing))
    [evaluated] = make_loader(records, CUPS, config, train=False)
    [trained] = make_loader(records, CUPS, config, train=True)
    predictor = Predictor(build_model(config.model, 3, 3), CUPS, config, torch.device("cpu"))
    images = [read_image(record.path) for record in records]
    predicted, meta = predictor.prepare(images, [record.file_name for record in records])
    assert torch.equal(predicted, evaluated.images)
    order = [meta.file_name for meta in trained.meta]
    for number, record in enumerate(records):
        assert torch.equal(trained.images[order.index(record.file_name)], predicted[number])
        np.testing.assert_array_equal(evaluated.meta[number].affine, meta[number].affine)

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
from ggnet.data.images import read_image
from ggnet.data.preprocess import preprocess
from ggnet.engine.inference import Predictor
from ggnet.models import build_model

SIZE = (96, 128)  # height, width
CONFIG = DataConfig(input_size=SIZE)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_letterbox_keeps_the_aspect_and_pads_with_black():
    pixels, meta = preprocess(np.full((50, 200, 3), 255, np.uint8), CONFIG, file_name="a.jpg")
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
    pixels, _ = preprocess(image, CONFIG)
    expected = (np.array([1, 0, 0]) - transforms.MEAN) / transforms.STD
    np.testing.assert_allclose(pixels[48, 64], expected, rtol=1e-5)


def test_original_samples_as_the_published_code_does():
    """CenterNet's warpAffine with pixel indices for edges: no half-pixel shift, no averaging."""
    image = noise(301, 407)
    config = DataConfig(input_size=SIZE, compat="original")
    pixels, meta = preprocess(image, config)
    warped = cv2.warpAffine(image, meta.affine, SIZE[::-1], flags=cv2.INTER_LINEAR) / 255.0
    np.testing.assert_allclose(pixels, (warped - transforms.MEAN) / transforms.STD, atol=1e-5)
    assert np.abs(preprocess(image, CONFIG)[0] - pixels).mean() > 0.1


def test_augmentation_is_trainings_alone():
    image = noise(60, 90)
    still, _ = preprocess(image, CONFIG)
    random = [preprocess(image, CONFIG, rng=np.random.default_rng(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(random[0], random[1])
    assert not np.array_equal(random[0], random[2])
    off = DataConfig(input_size=SIZE, augment=False)
    np.testing.assert_array_equal(preprocess(image, off, rng=np.random.default_rng(0))[0], still)


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

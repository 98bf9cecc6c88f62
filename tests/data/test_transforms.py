"""Augmentation: boxes follow the pixels, colors stay colors."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggnet.data import transforms

SIZE = (96, 128)  # height, width


def rectangle(width, height, box):
    """A black image with a white box, blurred so that resampling loses nothing of it."""
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return cv2.GaussianBlur(image, (0, 0), (x2 - x1) / 10)


def edges(image):
    """The white box's edges, sub-pixel: brightness along the box's middle row and column."""
    grey = image[:, :, 0].astype(float) / 255
    ys, xs = np.nonzero(grey > 0.9)
    row, column = grey[(ys.min() + ys.max()) // 2], grey[:, (xs.min() + xs.max()) // 2]
    x_center, y_center = (
        line @ (np.arange(len(line)) + 0.5) / line.sum() for line in (row, column)
    )
    width, height = row.sum(), column.sum()
    return np.array(
        [x_center - width / 2, y_center - height / 2, x_center + width / 2, y_center + height / 2]
    )


@given(seed=st.integers(0, 2**32 - 1))
def test_boxes_follow_pixels_through_the_random_crop(seed):
    rng = np.random.default_rng(seed)
    width, height = (int(x) for x in rng.integers(60, 300, 2))
    box = np.array([width // 2 - 9, height // 2 - 12, width // 2 + 11, height // 2 + 8])
    affine = transforms.random_crop_affine(width, height, SIZE, rng, (0.7, 1.3), False, 0.5)
    image = transforms.warp(rectangle(width, height, box), affine, SIZE)
    expected = transforms.transform_boxes(box[None].astype(np.float32), affine)[0]
    np.testing.assert_allclose(edges(image), expected, atol=0.1)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_follow_pixels_when_shrinking_a_lot(flip):
    box = np.array([103, 160, 303, 360])
    affine = transforms.crop_affine(701, 503, SIZE, (300.0, 280.0), flip=flip)
    image = transforms.warp(rectangle(701, 503, box), affine, SIZE)
    expected = transforms.transform_boxes(box[None].astype(np.float32), affine)[0]
    np.testing.assert_allclose(edges(image), expected, atol=0.1)


def test_the_published_warp_is_half_a_pixel_off():
    """What `half_pixel=False` reproduces, and why it is not the default."""
    box = np.array([50, 40, 90, 80])
    affine = transforms.letterbox_affine(256, 192, SIZE)
    expected = transforms.transform_boxes(box[None].astype(np.float32), affine)[0]
    shift = edges(transforms.warp(rectangle(256, 192, box), affine, SIZE, half_pixel=False))
    np.testing.assert_allclose(shift - expected, 0.25, atol=0.02)  # half of the lost half pixel


def test_a_strong_reduction_averages():
    """Single-pixel stripes turn grey, not into a random selection of stripes."""
    image = np.zeros((1200, 1600, 3), np.uint8)
    image[:, ::2] = 255
    small = transforms.warp(image, transforms.letterbox_affine(1600, 1200, SIZE), SIZE)
    assert small.min() > 100
    assert small.max() < 155


@given(seed=st.integers(0, 2**32 - 1))
def test_inverse_affine_returns_boxes(seed):
    rng = np.random.default_rng(seed)
    affine = transforms.random_crop_affine(640, 427, SIZE, rng, (0.7, 1.3), True, 0.5)
    boxes = np.array([[10.0, 20, 300, 400], [0, 0, 640, 427]])
    there = transforms.transform_boxes(boxes, affine)
    back = transforms.transform_boxes(there, transforms.invert_affine(affine))
    np.testing.assert_allclose(back, boxes, atol=1e-9)


def test_random_crop_covers_its_ranges():
    rng = np.random.default_rng(0)
    draws = [
        transforms.random_crop_affine(640, 480, (480, 640), rng, (0.7, 1.3), True, 0.5)
        for _ in range(400)
    ]
    zooms = np.array([affine[1, 1] for affine in draws])
    assert 0.69 < 1 / zooms.max() < 0.72
    assert 1.28 < 1 / zooms.min() < 1.31
    flips = np.mean([affine[0, 0] < 0 for affine in draws])
    assert 0.4 < flips < 0.6
    centers = np.array(
        [transforms.invert_affine(affine) @ [320, 240, 1] for affine in draws]
    )  # the crop's center stays 128 pixels from the border
    assert centers.min(axis=0) == pytest.approx([128, 128], abs=10)
    assert centers.max(axis=0) == pytest.approx([512, 352], abs=10)


def test_color_jitter_changes_colors_within_reason():
    rng = np.random.default_rng(0)
    image = np.random.default_rng(1).random((20, 20, 3), dtype=np.float32)
    outputs = [transforms.jitter_color(image.copy(), rng) for _ in range(200)]
    assert all(output.dtype == np.float32 for output in outputs)
    ratio = np.array([output.mean() / image.mean() for output in outputs])
    assert 0.3 < ratio.min() < 0.7
    assert 1.3 < ratio.max() < 1.7
    assert not np.array_equal(outputs[0], outputs[1])
    saturation = np.array([output.std(axis=2).mean() for output in outputs])
    assert saturation.max() > 1.3 * image.std(axis=2).mean()
    assert saturation.min() < 0.7 * image.std(axis=2).mean()

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


@pytest.mark.parametrize("zoom", [0.08, 0.4])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_reduction_averages(zoom, axis):
    """Single-pixel stripes turn grey, not into a random selection of stripes."""
    height, width = (round(side / zoom) for side in SIZE)
    image = np.zeros((height, width, 3), np.uint8)
    image[(slice(None),) * axis + (slice(None, None, 2),)] = 255
    small = transforms.warp(image, transforms.letterbox_affine(width, height, SIZE), SIZE)
    assert small.min() > 100
    assert small.max() < 155


@pytest.mark.parametrize("axis", [0, 1])
def test_a_line_of_pixels_is_kept_by_a_reduction(axis):
    shape = [1, 1]
    shape[axis] = 400
    gradient = np.repeat(np.linspace(0, 250, 400), 3).astype(np.uint8).reshape(*shape, 3)
    affine = np.array([[0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])
    affine[axis, 2] = 0.45  # across, the line's middle is a pixel's
    line = transforms.warp(gradient, affine, (40, 40)).max(axis=1 - axis)[:, 0]
    np.testing.assert_allclose(line, 250 * (np.arange(40) + 0.5) / 40, atol=2)


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


def test_without_a_shift_the_images_center_stays_the_crops():
    affine = transforms.random_crop_affine(
        640, 427, SIZE, np.random.default_rng(0), (0.7, 1.3), False, 0.5
    )
    center = transforms.invert_affine(affine) @ [SIZE[1] / 2, SIZE[0] / 2, 1]
    np.testing.assert_allclose(center, [320, 213.5])


@pytest.mark.parametrize(("side", "border"), [(257, 128), (256, 64), (100, 32), (60, 16)])
def test_in_a_small_image_the_border_is_halved_until_it_fits(side, border):
    rng = np.random.default_rng(0)
    draws = [
        transforms.random_crop_affine(side, 9 * side, SIZE, rng, (1, 1), True, 0) for _ in range(99)
    ]
    centers = [transforms.invert_affine(affine)[0] @ [SIZE[1] / 2, 0, 1] for affine in draws]
    slack = (side - 2 * border) / 20 + 1e-9
    assert border - 1e-9 <= min(centers) <= border + slack
    assert side - border - slack <= max(centers) <= side - border + 1e-9


def jittered(image, rng):
    """Step by step as CenterNet does it, in float64: RGB in [0, 1], normalized."""
    pixels = image / 255
    grey = pixels @ [0.299, 0.587, 0.114]
    ends = {
        "brightness": np.zeros_like(pixels),
        "contrast": np.full_like(pixels, grey.mean()),
        "saturation": np.repeat(grey[..., None], 3, axis=2),
    }
    for name in rng.permutation(["brightness", "contrast", "saturation"]):
        factor = rng.uniform(0.6, 1.4)
        pixels = factor * pixels + (1 - factor) * ends[name]
    pixels = pixels + transforms.EIGENVECTORS @ (transforms.EIGENVALUES * rng.normal(0, 0.1, 3))
    return (pixels - transforms.MEAN) / transforms.STD


@given(seed=st.integers(0, 2**32 - 1))
def test_jitter_is_one_map_of_colors(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    colors = transforms.normalizing(transforms.jitter(image, np.random.default_rng(seed)))
    mine = np.empty(image.shape, np.float32)
    transforms.apply_colors(image, colors, mine)
    np.testing.assert_allclose(mine, jittered(image, np.random.default_rng(seed)), atol=1e-5)


def test_normalization_alone_has_the_bits_of_its_formula():
    image = np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    mine = np.empty(image.shape, np.float32)
    transforms.apply_colors(image, None, mine)
    formula = (image.astype(np.float32) / 255 - transforms.MEAN) / transforms.STD
    np.testing.assert_array_equal(mine, formula)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_smaller_image_is_warped_as_the_whole_one(reduction):
    """Averages over `reduction` pixels, as libjpeg gives them, at a border that is cut, too."""
    box = np.array([103, 160, 303, 360])
    whole = rectangle(701, 503, box)
    height, width = -(-503 // reduction), -(-701 // reduction)
    padded = np.pad(
        whole, ((0, height * reduction - 503), (0, width * reduction - 701), (0, 0)), mode="edge"
    )
    small = cv2.resize(padded, (width, height), interpolation=cv2.INTER_AREA)
    affine = transforms.crop_affine(701, 503, SIZE, (300.0, 280.0), scale=1.7)
    image = transforms.warp(small, affine, SIZE, reduction=reduction)
    expected = transforms.transform_boxes(box[None].astype(np.float32), affine)[0]
    np.testing.assert_allclose(edges(image), expected, atol=0.1)


def test_no_more_is_left_out_than_the_warp_would_average():
    zooms = {3.0: 1, 1.0: 1, 0.51: 1, 0.5: 2, 0.26: 2, 0.2: 4, 0.11: 8, 0.01: 8}
    for zoom, factor in zooms.items():
        assert transforms.reduction(np.array([[-zoom, 0, 0], [0, zoom, 0]])) == factor


def test_color_jitter_changes_colors_within_reason():
    rng = np.random.default_rng(0)
    image = np.random.default_rng(1).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    colors = image / 255
    maps = [transforms.jitter(image, rng) for _ in range(200)]
    outputs = [colors @ map[:, :3].T + map[:, 3] for map in maps]
    ratio = np.array([output.mean() / colors.mean() for output in outputs])
    assert 0.3 < ratio.min() < 0.7
    assert 1.3 < ratio.max() < 1.7
    assert not np.array_equal(outputs[0], outputs[1])
    saturation = np.array([output.std(axis=2).mean() for output in outputs])
    assert saturation.max() > 1.3 * colors.std(axis=2).mean()
    assert saturation.min() < 0.7 * colors.std(axis=2).mean()

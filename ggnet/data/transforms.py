"""The steps of `ggnet.data.preprocess`: letterbox, augmentation, normalization.

Coordinates are pixel edges: pixel i covers [i, i + 1], so an image of width W spans [0, W]. An
affine is a float64 (2, 3) array that maps original to input coordinates. The published code works
with pixel indices and skips the half-pixel shift; `half_pixel=False` reproduces that.
"""

import cv2
import numpy as np

from ggnet.data.images import REDUCTIONS

# CenterNet's statistics of COCO, which GGNet uses, here in RGB order
MEAN = np.array([0.47026115, 0.44719302, 0.40789654], dtype=np.float32)
STD = np.array([0.27809835, 0.27408164, 0.28863828], dtype=np.float32)
# Principal components of COCO's colors: CornerNet's lighting noise, in RGB order
EIGENVALUES = np.array([0.2141788, 0.01817699, 0.00341571])
EIGENVECTORS = np.array(
    [
        [-0.56089297, 0.71832671, 0.41158938],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.58752847, -0.69563484, 0.41340352],
    ]
)
GREY = np.array([0.299, 0.587, 0.114])  # luma of RGB, ITU-R BT.601
COLOR_RANGE = 0.4  # brightness, contrast and saturation factors lie in 1 +- this
LIGHTING_STD = 0.1
CROP_BORDER = 128  # a random crop's center keeps this distance from the image's border


def letterbox_affine(width: int, height: int, input_size: tuple[int, int]) -> np.ndarray:
    """The whole image centered in (height, width) `input_size`, aspect kept, black beside it."""
    return crop_affine(width, height, input_size, center=(width / 2, height / 2))


def crop_affine(
    width: int,
    height: int,
    input_size: tuple[int, int],
    center: tuple[float, float],
    scale: float = 1.0,
    flip: bool = False,
) -> np.ndarray:
    """A crop around `center`, `scale` times the letterbox's size, possibly mirrored."""
    input_height, input_width = input_size
    zoom = min(input_width / width, input_height / height) / scale
    zoom_x = -zoom if flip else zoom
    return np.array(
        [
            [zoom_x, 0.0, input_width / 2 - zoom_x * center[0]],
            [0.0, zoom, input_height / 2 - zoom * center[1]],
        ]
    )


def random_crop_affine(
    width: int,
    height: int,
    input_size: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float, float],
    shift: bool,
    flip: float,
) -> np.ndarray:
    """CenterNet's augmentation: random crop size, crop center and mirroring.

    Args:
        scale: range of the crop's size relative to the letterbox.
        shift: draw the center anywhere but near the border, else keep the image's.
        flip: probability of mirroring.
    """
    factor = rng.uniform(*scale)
    center = (width / 2, height / 2)
    if shift:
        center = (rng.uniform(*_inner(width)), rng.uniform(*_inner(height)))
    return crop_affine(width, height, input_size, center, factor, rng.random() < flip)


def _inner(size: int) -> tuple[float, float]:
    border = CROP_BORDER
    while size <= 2 * border:
        border /= 2
    return border, size - border


def warp(
    image: np.ndarray,
    affine: np.ndarray,
    input_size: tuple[int, int],
    half_pixel: bool = True,
    reduction: int = 1,
) -> np.ndarray:
    """Resample a uint8 (H, W, 3) image bilinearly to (height, width) `input_size`; outside: black.

    An image that shrinks to half or less is averaged over whole pixels first, so that details do
    not turn into noise (not with `half_pixel=False`).

    Args:
        reduction: by how much `image` is smaller already than the one that `affine` maps.
    """
    matrix = affine.copy()
    matrix[:, :2] *= reduction
    if half_pixel:
        height, width = image.shape[:2]
        shrink = int(1 / matrix[1, 1])
        small = max(width // max(shrink, 1), 1), max(height // max(shrink, 1), 1)
        if shrink > 1:
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            matrix[:, 0] *= width / small[0]
            matrix[:, 1] *= height / small[1]
        matrix[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5  # edges -> pixel centers, OpenCV's unit
    input_height, input_width = input_size
    return cv2.warpAffine(image, matrix, (input_width, input_height), flags=cv2.INTER_LINEAR)


def reduction(affine: np.ndarray) -> int:
    """The largest of `REDUCTIONS` after which `warp` still has to shrink the image or keep it."""
    return max(factor for factor in REDUCTIONS if factor == 1 or factor * affine[1, 1] <= 1)


def transform_boxes(boxes: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(n, 4) boxes under an axis-aligned `affine`, corners in order again after mirroring."""
    corners = boxes.reshape(-1, 2, 2) * affine.diagonal() + affine[:, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def invert_affine(affine: np.ndarray) -> np.ndarray:
    """The axis-aligned affine back from input to original coordinates."""
    zoom = 1 / affine.diagonal().astype(np.float64)
    return np.array(
        [[zoom[0], 0.0, -zoom[0] * affine[0, 2]], [0.0, zoom[1], -zoom[1] * affine[1, 2]]]
    )


def jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """CenterNet's color augmentation of a uint8 RGB image, as one affine map of its colors.

    Brightness, contrast, saturation in random order, then lighting noise. Contrast moves towards
    the mean of the image's grey, saturation towards the grey of each pixel; both mean the image as
    it was.

    Returns:
        (3, 4) float64: from (R, G, B, 1), each color in [0, 1], to the new R, G, B.
    """
    colors = np.eye(3, 4)
    mean = GREY @ cv2.mean(pixels)[:3] / 255
    grey = np.append(GREY, 0.0)
    toward = {"brightness": np.zeros(4), "contrast": np.array([0, 0, 0, mean]), "saturation": grey}
    for name in rng.permutation(sorted(toward)):
        factor = rng.uniform(1 - COLOR_RANGE, 1 + COLOR_RANGE)
        colors = colors * factor + toward[name] * (1 - factor)
    light = EIGENVECTORS @ (EIGENVALUES * rng.normal(scale=LIGHTING_STD, size=3))
    colors[:, 3] += light
    return colors


def normalizing(colors: np.ndarray) -> np.ndarray:
    """`jitter`'s map between bytes and the network's input.

    Returns:
        (3, 4) float32: from (R, G, B, 1), each color in [0, 255], to `normalize`d R, G, B.
    """
    colors = colors * [1 / 255, 1 / 255, 1 / 255, 1]
    colors[:, 3] -= MEAN
    return (colors / STD[:, None]).astype(np.float32)


def normalize(colors: np.ndarray) -> np.ndarray:
    """Subtract the mean and divide by the spread of COCO's colors; (..., 3) float32 RGB/255."""
    return (colors - MEAN) / STD


# `normalize` of every byte: (256, 1, 3), as cv2.LUT wants it
_NORMALIZED = normalize(np.repeat(np.arange(256, dtype=np.float32)[:, None, None] / 255, 3, axis=2))


def apply_colors(pixels: np.ndarray, colors: np.ndarray | None, out: np.ndarray) -> None:
    """Bytes to the network's input.

    Args:
        pixels: uint8 (H, W, 3) RGB.
        colors: of `normalizing`; None: `normalize` alone, whose bits do not depend on the machine.
        out: float32 (H, W, 3), written to.
    """
    if colors is None:
        cv2.LUT(pixels, _NORMALIZED, dst=out)
    else:
        cv2.transform(pixels.astype(np.float32), colors, dst=out)

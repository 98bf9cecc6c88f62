"""From a decoded image to the network's input: one way for training, evaluation and prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ggnet.config import DataConfig
from ggnet.data import transforms


@dataclass(frozen=True, eq=False)
class ImageMeta:
    """Which image the network sees, and how to get back to its pixels."""

    file_name: str
    image_id: str
    width: int  # of the original, in pixels
    height: int
    affine: np.ndarray  # (2, 3) float64, original pixel edges -> input pixel edges


def preprocess(
    image: np.ndarray,
    config: DataConfig,
    *,
    file_name: str = "",
    image_id: str = "",
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, ImageMeta]:
    """Bring an image to the input size: letterboxed, or a random crop for training; normalized.

    Args:
        image: uint8 RGB (H, W, 3) of any size.
        config: input size; `compat="original"` samples as the published code does; with `rng`,
            what is augmented and how much.
        file_name, image_id: kept in the meta.
        rng: training's random numbers; None: no augmentation.

    Returns:
        The float32 RGB (height, width, 3) pixels, normalized, and where they come from.
    """
    height, width = image.shape[:2]
    size = config.input_size
    augment = rng is not None and config.augment
    if augment:
        affine = transforms.random_crop_affine(
            width, height, size, rng, config.scale, config.shift, config.flip
        )
    else:
        affine = transforms.letterbox_affine(width, height, size)
    pixels = transforms.warp(image, affine, size, half_pixel=config.compat != "original")
    pixels = pixels.astype(np.float32) / 255
    if augment and config.color:
        pixels = transforms.jitter_color(pixels, rng)
    meta = ImageMeta(file_name, image_id, width, height, affine)
    return transforms.normalize(pixels), meta


def stack_pixels(pixels: Sequence[np.ndarray]) -> Tensor:
    """The network's input: (B, 3, height, width), channels_last, of B preprocessed images."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)

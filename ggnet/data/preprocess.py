"""From a decoded image to the network's input: one way for training, evaluation and prediction."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ggnet.config import DataConfig
from ggnet.data import transforms
from ggnet.data.images import StoredImage


@dataclass(frozen=True, eq=False)
class ImageMeta:
    """Which image the network sees, and how to get back to its pixels."""

    file_name: str
    image_id: str
    width: int  # of the original, in pixels
    height: int
    affine: np.ndarray  # (2, 3) float64, original pixel edges -> input pixel edges


@dataclass(frozen=True, eq=False)
class InputImage:
    """An image of the input size in bytes, and what makes the network's input of them."""

    pixels: np.ndarray  # (height, width, 3) uint8 RGB
    colors: np.ndarray | None  # (3, 4) float32 of `transforms.normalizing`; None: without jitter
    meta: ImageMeta


def preprocess(
    image: np.ndarray | StoredImage,
    config: DataConfig,
    *,
    file_name: str = "",
    image_id: str = "",
    rng: np.random.Generator | None = None,
) -> InputImage:
    """Bring an image to the input size: letterboxed, or a random crop for training.

    Args:
        image: uint8 RGB (H, W, 3) of any size; or a file, of which augmentation decodes only as
            many pixels as it needs (evaluation all, for the same bits as of an array).
        config: input size; `compat="original"` samples as the published code does; with `rng`,
            what is augmented and how much.
        file_name, image_id: kept in the meta.
        rng: training's random numbers; None: no augmentation.

    Returns:
        The pixels, what normalizes them, and where they come from; `stack_inputs` goes on.
    """
    stored = isinstance(image, StoredImage)
    width, height = image.size if stored else image.shape[1::-1]
    size, half_pixel = config.input_size, config.compat != "original"
    augment = rng is not None and config.augment
    if augment:
        affine = transforms.random_crop_affine(
            width, height, size, rng, config.scale, config.shift, config.flip
        )
    else:
        affine = transforms.letterbox_affine(width, height, size)
    reduction = 1
    if stored:
        wanted = transforms.reduction(affine) if augment and half_pixel else 1
        image, reduction = image.read_reduced(wanted)
    pixels = transforms.warp(image, affine, size, half_pixel, reduction)
    colors = None
    if augment and config.color:
        colors = transforms.normalizing(transforms.jitter(pixels, rng))
    return InputImage(pixels, colors, ImageMeta(file_name, image_id, width, height, affine))


def stack_inputs(images: Sequence[InputImage]) -> Tensor:
    """The network's input: (B, 3, height, width) float32, channels_last."""
    pixels = np.empty((len(images), *images[0].pixels.shape), np.float32)
    for image, out in zip(images, pixels, strict=True):
        transforms.apply_colors(image.pixels, image.colors, out)
    return _channels_first(pixels)


def stack_bytes(images: Sequence[InputImage]) -> tuple[Tensor, Tensor | None]:
    """What `normalize_bytes` makes the network's input of, in a quarter of its size."""
    pixels = _channels_first(np.stack([image.pixels for image in images]))
    if images[0].colors is None:
        return pixels, None
    return pixels, torch.from_numpy(np.stack([image.colors for image in images]))


def normalize_bytes(pixels: Tensor, colors: Tensor | None) -> Tensor:
    """`stack_inputs` on the tensors' device; without `colors` to the bit.

    Args:
        pixels: (B, 3, H, W) uint8 RGB.
        colors: (B, 3, 4) float32, see `transforms.normalizing`; None: `transforms.normalize`.

    Returns:
        (B, 3, H, W) float32 in the memory format of `pixels`.
    """
    values = pixels.float()
    if colors is None:
        # By tensors: a GPU would multiply with a number's inverse, which rounds otherwise.
        mean, std = (values.new_tensor(x)[:, None, None] for x in (transforms.MEAN, transforms.STD))
        return values.div_(values.new_tensor(255.0)).sub_(mean).div_(std)
    colors = colors[..., None, None]  # (B, 3, 4, 1, 1)
    result = torch.mul(values[:, :1], colors[:, :, 0], out=torch.empty_like(values))
    for channel in (1, 2):
        result.addcmul_(values[:, channel : channel + 1], colors[:, :, channel])
    return result.add_(colors[:, :, 3])


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)

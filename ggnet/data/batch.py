"""What a step receives: images, and for training compact point targets, no heatmaps."""

from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor

from ggnet.data.preprocess import ImageMeta, normalize_bytes


@dataclass
class ImageBatch:
    """B images, as evaluation needs them."""

    images: Tensor  # (B, 3, H, W) float32, normalized RGB, channels_last; or, until `to`, uint8
    meta: list[ImageMeta]
    # (B, 3, 4) float32, of uint8 images: their color augmentation and normalization
    colors: Tensor | None = field(default=None, kw_only=True)
    # what reading, decoding, cropping (with targets) took in the process that loaded it
    seconds: dict[str, float] = field(default_factory=dict, kw_only=True)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.meta)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        """A copy with every tensor on `device`, normalized there; `meta` stays as it is."""
        batch = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if batch.images.dtype != torch.uint8:
            return batch
        return replace(batch, images=normalize_bytes(batch.images, batch.colors), colors=None)

    def pin_memory(self) -> Self:
        """A copy in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function) -> Self:
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return type(self)(
            **{
                name: function(value) if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
        )


@dataclass
class Batch(ImageBatch):
    """Images and targets of one step; B images, N objects, M interactions, L hard negatives.

    Coordinates are cells of the feature map. Heatmaps are drawn from these points on the training
    device (`ggnet.ops.draw_heatmaps`).
    """

    objects: Tensor  # (N, 4) int32 [batch, class, y, x]
    object_radii: Tensor  # (N,) int32 Gaussian radius
    sizes: Tensor  # (N, 2) float32 [width, height]
    centers_frac: Tensor  # (N, 2) float32 [x, y], center minus integer cell
    interactions: Tensor  # (M, 4) int32 [batch, verb, y, x]
    interaction_radii: Tensor  # (M,) int32
    human_offsets: Tensor  # (M, 2) float32 [x, y], interaction cell minus human center cell
    object_offsets: Tensor  # (M, 2) float32 [x, y], interaction cell minus object center cell
    hard_negatives: Tensor  # (L, 4) int32 [batch, verb, y, x]

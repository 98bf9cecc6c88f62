"""Convolutions at chosen cells of a map, by the operator that lets every tap read anywhere."""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ggnet import ops

STRIDES = range(1, 17)  # of an arrangement: from all cells down to one of 256


@dataclass(frozen=True, eq=False)
class Cells:
    """As many chosen cells in each image of a batch, in a (rows, columns) arrangement.

    `deform_conv2d` computes a map of the input's height and width over its strides; every cell of
    that smaller map is given offsets that lead its taps to a chosen cell's neighbourhood. Offsets
    stay below the map's sides, so that positions are rounded as in the whole map.
    """

    index: Tensor  # (B, rows * columns) int64 into the flat map, rising
    size: tuple[int, int]  # of the map
    stride: tuple[int, int]

    @classmethod
    def best(cls, scores: Tensor, count: int) -> Self:
        """The `count` cells of highest score in each image, and as many more as fill a rectangle.

        Args:
            scores: (B, H, W).
            count: at most H * W.
        """
        size = height, width = tuple(scores.shape[1:])
        shapes = {(-(-height // y), -(-width // x)): (y, x) for y in STRIDES for x in STRIDES}
        rows, columns = min(
            (shape for shape in shapes if shape[0] * shape[1] >= count),
            key=lambda shape: (shape[0] * shape[1], abs(shape[0] - shape[1])),
        )
        index = scores.flatten(1).topk(rows * columns).indices.sort(1).values
        return cls(index, size, shapes[rows, columns])

    def around(self, reach: int) -> Self:
        """These cells and all that are at most `reach` rows and columns away. Waits for the device,
        as their number is not known before."""
        here = self.index.new_zeros((len(self.index), *self.size), dtype=torch.float32)
        here.flatten(1).scatter_(1, self.index, 1.0)
        near = F.max_pool2d(here[:, None], 2 * reach + 1, 1, reach)[:, 0]
        return type(self).best(near, int(near.sum((1, 2)).max()))

    def conv(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        offset: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """A convolution that keeps the size of the map, at the cells alone.

        Args:
            features: (B, C, H, W).
            weight: (O, C, k, k), k odd.
            bias: (O,).
            offset: (B, 2K, rows, columns) of the cells' taps; None: a regular convolution.
            mask: (B, K, rows, columns); None: 1.

        Returns:
            (B, O, rows, columns).
        """
        taps, side = weight[0, 0].numel(), weight.shape[-1]
        shift = self._shift().to(features.dtype)[:, None].expand(-1, taps, -1, -1, -1).flatten(1, 2)
        return ops.deform_conv2d(
            features,
            shift if offset is None else shift + offset,
            weight,
            bias,
            stride=self.stride,
            padding=side // 2,
            mask=mask,
        )

    def take(self, map_: Tensor) -> Tensor:
        """(B, C, H, W) -> its (B, C, rows, columns)."""
        index = self.index[..., None].expand(-1, -1, map_.shape[1])
        taken = map_.permute(0, 2, 3, 1).flatten(1, 2).gather(1, index)
        return self._arranged(taken.transpose(1, 2))

    def put(self, values: Tensor, elsewhere: float) -> Tensor:
        """(B, C, rows, columns) -> the (B, C, H, W) that has these values, and `elsewhere`."""
        images, channels = values.shape[:2]
        map_ = values.new_full((images, self.size[0] * self.size[1], channels), elsewhere)
        index = self.index[..., None].expand(-1, -1, channels)
        map_.scatter_(1, index, values.flatten(2).transpose(1, 2))
        return map_.transpose(1, 2).unflatten(2, self.size)  # adjacent channels, as kernels read

    def _arranged(self, values: Tensor) -> Tensor:
        rows = -(-self.size[0] // self.stride[0])
        return values.unflatten(-1, (rows, -1))

    def _shift(self) -> Tensor:
        """(B, 2, rows, columns): a cell's (y, x) less the place in the input where its taps are."""
        y, x = self.index // self.size[1], self.index % self.size[1]
        to = self._arranged(torch.stack([y, x], 1))
        rows, columns = (torch.arange(n, device=to.device) for n in to.shape[2:])
        here = torch.stack(
            torch.meshgrid(rows * self.stride[0], columns * self.stride[1], indexing="ij")
        )
        return to - here

"""The memory format of results, the same for kernels (csrc/common/check.h) and fake kernels."""

from collections.abc import Sequence

import torch
from torch import Tensor


def memory_format(tensor: Tensor) -> torch.memory_format:
    """channels_last if the channels of a 4-D tensor are adjacent and it is not contiguous."""
    if tensor.dim() == 4 and tensor.stride(1) == 1 and not tensor.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def empty(
    shape: Sequence[int], like: Tensor, *, dtype: torch.dtype | None = None, follow: bool = False
) -> Tensor:
    """An uninitialized tensor on the device of `like`, of its dtype and, with follow, format."""
    format = memory_format(like) if follow else torch.contiguous_format
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=format)


def gradient(of: Tensor, wanted: bool) -> Tensor:
    """What a backward operator returns for a tensor: no elements where it is not wanted."""
    return empty(of.shape, of, follow=True) if wanted else empty((0,), of)

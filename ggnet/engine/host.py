"""From a device to the host, waiting for it once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def to_host(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """The tensors of one device as arrays: one copy for all, as a copy waits for the device.

    On the CPU the arrays share the tensors' memory.
    """
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.numpy() for tensor in tensors]
    return unpack(pack(tensors).cpu(), tensors)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of all tensors, the widest types first, so that each is aligned for its own."""
    return torch.cat([tensors[i].reshape(-1).view(torch.uint8) for i in _order(tensors)])


def unpack(packed: Tensor, tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """What `pack` made, in the shapes and types of the tensors."""
    arrays: list = [None] * len(tensors)
    begin = 0
    for i in _order(tensors):
        end = begin + tensors[i].nbytes
        arrays[i] = packed[begin:end].view(tensors[i].dtype).reshape(tensors[i].shape).numpy()
        begin = end
    return arrays


def _order(tensors: Sequence[Tensor]) -> list[int]:
    return sorted(range(len(tensors)), key=lambda i: -tensors[i].itemsize)

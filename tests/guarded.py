"""Memory that ends, and begins, where a page begins that nobody may touch.

An access beyond such an array ends the process, so use it in a process of its own.
"""

import ctypes
import mmap

import numpy as np
import torch
from torch import Tensor

_libc = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE
_kept = []  # a mapping lives as long as the process


def guarded_bytes(count: int, at_end: bool) -> np.ndarray:
    """`count` bytes directly before a forbidden page, or directly after one; 0xff, so NaN."""
    pages = -(-max(count, 1) // _PAGE)
    mapping = mmap.mmap(-1, (pages + 2) * _PAGE)
    _kept.append(mapping)
    whole = np.frombuffer(mapping, np.uint8)
    whole[:] = 0xFF
    start = whole.ctypes.data
    for page in (start, start + (pages + 1) * _PAGE):
        if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(_PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    first = (pages + 1) * _PAGE - count if at_end else _PAGE
    return whole[first : first + count]


def guarded(tensor: Tensor, at_end: bool) -> Tensor:
    """A copy with the same strides; of a dense tensor."""
    flat = torch.from_numpy(guarded_bytes(tensor.numel() * tensor.element_size(), at_end))
    copy = flat.view(tensor.dtype).as_strided(tensor.shape, tensor.stride())
    return copy.copy_(tensor)

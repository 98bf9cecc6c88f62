"""Hopper's instructions in the emulator: products are right, each planted bug is found."""

import numpy as np
import pytest
import torch
from arrays import from_array, to_array

ORDERS = ({}, {"order": "reverse"}, {"order": "shuffled", "seed": 7})
DEPTH = 320


def operands(kernel, dtype, size):
    """a, b as the kernel takes them, and their product in float64."""
    a = to_array(torch.randn(64, DEPTH), dtype)
    b = to_array(torch.randn(size, DEPTH), dtype)
    product = (from_array(a, dtype) @ from_array(b, dtype).T).numpy()
    if kernel == "columns":
        return np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), product
    # Each step's rows of 128 bytes, their chunks of 16 bytes exchanged: the 128-byte swizzle.
    chunks = b.reshape(size, DEPTH // 64, 8, 8).transpose(1, 0, 2, 3)
    packed = np.empty_like(chunks)
    for row in range(size):
        packed[:, row, np.arange(8) ^ (row % 8)] = chunks[:, row]
    return a, np.ascontiguousarray(packed), product


def launch(simt, kernel, bug, dtype, size, a, b, **options):
    simt.configure(**options)
    out = np.full((64, size), np.nan, np.float32)
    simt.planted_product(kernel, bug, dtype, size, DEPTH, a, b, out)
    return out


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("kernel", ["rows", "columns"])
def test_product(simt, kernel, size, dtype, early):
    a, b, product = operands(kernel, dtype, size)
    for order in ORDERS:
        out = launch(simt, kernel, "", dtype, size, a, b, async_early=early, **order)
        np.testing.assert_allclose(out, product, rtol=0, atol=1e-4)
    counted = simt.counters()
    assert counted["mma_macs"] == 64 * size * DEPTH
    assert counted["mma"] == 4 * DEPTH // 16
    read = size if kernel == "rows" else size + 64  # a is in registers, or shared as well
    assert counted["shared_async_bytes"] == 2 * read * DEPTH
    assert counted["async_bytes"] == (2 * size * DEPTH if kernel == "rows" else 0)

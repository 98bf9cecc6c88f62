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


# Kernel, bug, and what is said of it ("wrong result": the output differs). In the default mode,
# where what is asynchronous happens late, each is found in every order.
FOUND = [
    ("rows", "early_read", "wrong result"),
    ("columns", "early_read", "wrong result"),
    ("rows", "early_refill", "changed before the product was waited for"),
    ("columns", "early_refill", "changed before the product was waited for"),
    ("rows", "few_bytes", "bytes"),
    ("rows", "wrong_phase", "parity 1 of the mbarrier"),
    ("columns", "wrong_phase", "parity 0 of the mbarrier"),
    ("rows", "wrong_stride", "outside the block's memory"),
    ("columns", "wrong_stride", "wrong result"),
    ("rows", "missing_wgmma_fence", "without wgmma.fence"),
    ("columns", "missing_wgmma_fence", "without wgmma.fence"),
    ("rows", "late_write", "written after wgmma.fence"),
    ("columns", "late_write", "written after wgmma.fence"),
    ("rows", "written_accumulator", "accumulators of a wgmma were written"),
    ("columns", "written_accumulator", "accumulators of a wgmma were written"),
]


@pytest.mark.parametrize("order", ORDERS, ids=("forward", "reverse", "shuffled"))
@pytest.mark.parametrize(("kernel", "bug", "says"), FOUND)
def test_bug_is_found(simt, kernel, bug, says, order):
    a, b, product = operands(kernel, "bfloat16", 128)
    if says != "wrong result":
        with pytest.raises(RuntimeError, match=says):
            launch(simt, kernel, bug, "bfloat16", 128, a, b, **order)
        return
    out = launch(simt, kernel, bug, "bfloat16", 128, a, b, **order)
    assert not np.allclose(out, product, rtol=0, atol=1e-2)

"""Hopper's instructions in the emulator: clean kernels are not accused, planted bugs are found."""

import emulator
import numpy as np
import pytest
import torch
from arrays import from_array, to_array
from test_planted_bugs import in_process

ORDERS = ({}, {"order": "reverse"}, {"order": "shuffled", "seed": 7})
DEPTH = 320
KERNELS = ("rows", "shared_rows", "columns", "stream")

# Kernel, bug, and what is said of it ("wrong result": the output differs). Each is found in every
# order, where what is asynchronous happens late.
FOUND = [
    ("rows", "early_read", "wrong result"),
    ("columns", "early_read", "wrong result"),
    ("rows", "early_refill", "changed before the product was waited for"),
    ("shared_rows", "early_refill", "changed before the product was waited for"),
    ("columns", "early_refill", "changed before the product was waited for"),
    ("rows", "few_bytes", "too few bytes"),
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
    ("stream", "unfenced_barrier", "initialization was not fenced"),
]
# What the instrumented build alone can see, whatever the order and whenever things happen.
TRACED = [
    ("columns", "missing_proxy_fence", "no fence.proxy.async"),
    ("stream", "early_refill", "data race"),
    ("stream", "missing_wait", "data race"),
]


def swizzled(matrix):
    """Rows of 128 bytes of each step, their chunks of 16 bytes in the 128-byte swizzle."""
    rows = len(matrix)
    chunks = matrix.reshape(rows, DEPTH // 64, 8, 8).transpose(1, 0, 2, 3)
    packed = np.empty_like(chunks, order="C")
    for row in range(rows):
        packed[:, row, np.arange(8) ^ (row % 8)] = chunks[:, row]
    return packed


def operands(kernel, dtype, size):
    """a, b as the kernel takes them, and the output expected, in float64."""
    if kernel == "stream":
        a = to_array(torch.zeros(64, DEPTH), dtype)
        b = to_array(torch.randn(DEPTH, size), dtype)
        return a, b, from_array(b, dtype)[:64].numpy()
    a = to_array(torch.randn(64, DEPTH), dtype)
    b = to_array(torch.randn(size, DEPTH), dtype)
    product = (from_array(a, dtype) @ from_array(b, dtype).T).numpy()
    if kernel == "columns":
        return np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), product
    return (swizzled(a) if kernel == "shared_rows" else a), swizzled(b), product


def launch(simt, kernel, bug, dtype, size, a, b, **options):
    simt.configure(**options)
    out = np.full((64, size), np.nan, np.float32)
    simt.planted_product(kernel, bug, dtype, size, DEPTH, a, b, out)
    return out


def unnoticed(simt, kernel, bug, says, **options):
    """None where the bug is found as it should be; otherwise what happened."""
    a, b, expected = operands(kernel, "bfloat16", 128)
    try:
        out = launch(simt, kernel, bug, "bfloat16", 128, a, b, **options)
    except RuntimeError as error:
        return None if says in str(error) else f"{kernel} {bug}: expected '{says}', got '{error}'"
    if says == "wrong result" and not np.allclose(out, expected, rtol=0, atol=1e-2):
        return None
    return f"{kernel} {bug} {options}: unnoticed"


def check_traced(simt):
    """Runs in a process of its own; returns one line for each disagreement."""
    wrong = []
    for how in [{**order, "async_early": early} for order in ORDERS for early in (False, True)]:
        for kernel in KERNELS:
            a, b, expected = operands(kernel, "float16", 128)
            try:
                out = launch(simt, kernel, "", "float16", 128, a, b, **how)
                np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4)
            except RuntimeError as error:
                wrong.append(f"{kernel} {how}: the clean kernel is accused: {error}")
        wrong += filter(None, (unnoticed(simt, *case, **how) for case in TRACED))
    # With copies and products at once, only their order tells.
    once = {"async_early": True}
    more = [
        unnoticed(simt, "columns", "early_refill", "data race", **once),
        unnoticed(simt, "stream", "unshown_barrier", "data race"),
    ]
    wrong += filter(None, more)
    return wrong


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("kernel", KERNELS)
def test_clean(simt, kernel, size, dtype, early):
    a, b, expected = operands(kernel, dtype, size)
    for order in ORDERS:
        out = launch(simt, kernel, "", dtype, size, a, b, async_early=early, **order)
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-4)


def test_counters(simt):
    size = 128
    for kernel in ("rows", "shared_rows", "columns"):
        a, b, _ = operands(kernel, "float16", size)
        launch(simt, kernel, "", "float16", size, a, b)
        counted = simt.counters()
        assert counted["mma"] == 4 * DEPTH // 16
        assert counted["mma_macs"] == 64 * size * DEPTH
        read = size if kernel == "rows" else size + 64  # a is in registers, or shared as well
        assert counted["shared_async_bytes"] == 2 * read * DEPTH
        copied = {"rows": size, "shared_rows": size + 64, "columns": 0}[kernel]
        assert counted["async_bytes"] == 2 * copied * DEPTH


def test_sums_are_cut_as_on_hardware(simt):
    """1 + 1.5 * 2^-24 is 1, not the nearest float32."""
    a, b = np.zeros((DEPTH, 64), np.float16), np.zeros((DEPTH, 64), np.float16)
    a[0], b[0] = 1, 1
    a[16], b[16] = 1.5 * 2**-12, 2**-12
    out = launch(simt, "columns", "", "float16", 64, a, b)
    assert (out == 1).all()


@pytest.mark.parametrize("order", ORDERS, ids=("forward", "reverse", "shuffled"))
@pytest.mark.parametrize(("kernel", "bug", "says"), FOUND)
def test_bug_is_found(simt, kernel, bug, says, order):
    assert unnoticed(simt, kernel, bug, says, **order) is None


def test_barrier_used_before_it_is_initialized(simt):
    """Seen where the thread that initializes comes last."""
    says = "before mbarrier.init"
    assert unnoticed(simt, "stream", "unshown_barrier", says, order="reverse") is None


@pytest.mark.slow
def test_instrumented_run(simt):
    emulator.build("traced")
    code = (
        "import emulator, test_planted_hopper_bugs as t\n"
        "print(t.check_traced(emulator.load('traced')))"
    )
    done = in_process("traced", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-2000:]

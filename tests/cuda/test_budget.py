"""Static evidence about the CUDA kernels: limits that hold, and numbers that change knowingly."""

import json
import re

import emulator
import pytest
import static

BUDGET = json.loads(static.BUDGET.read_text())
MATRIX = ("forward_kernel", "backward_kernel", "weight_grad_kernel")  # of the deformable operators


@pytest.fixture(scope="module")
def measured():
    if static.tool("cuobjdump") is None:
        pytest.skip("no cuobjdump: install CUDA's binary utilities, or triton, which carries them")
    return {arch: kernels for arch, kernels in static.measure().items() if arch in static.DEVICES}


def matrix_kernels(kernels):
    """(kernel's name, type, math, tile, aligned, measurement), by one section of channels."""
    variant = r"(\w+)<(\w+), (half|tf32|tf32x3|float), (\d+), (true|false)(, false)?>"
    for name, kernel in kernels.items():
        m = re.fullmatch(variant, name)
        if m and m[1] in MATRIX:
            yield m[1], m[2], m[3], int(m[4]), m[5] == "true", kernel


def test_every_architecture_of_the_budget_is_here(measured):
    assert set(measured) == set(BUDGET["kernels"])
    for arch in measured:
        assert len(list(matrix_kernels(measured[arch]))) == 3 * 5 * 3 * 2
        # The forward by several sections, but for 256 outputs of float32's three maths.
        sections = [n for n in measured[arch] if re.fullmatch(r"forward_kernel<.*e, true>", n)]
        assert len(sections) == 5 * 3 * 2 - 3 * 2


def test_nothing_is_kept_in_local_memory(measured):
    for arch, kernels in measured.items():
        spilling = [name for name, k in kernels.items() if k.stack or k.spills]
        assert not spilling, arch


def test_matrix_products_run_on_tensor_cores(measured):
    for kernels in measured.values():
        for name, dtype, math, tile, _, kernel in matrix_kernels(kernels):
            assert (kernel.hmma > 0) == (math != "float"), (name, dtype, math, tile)


def test_hopper_kernels_multiply_by_warpgroups(measured):
    """HGMMA in all that are compiled for 9.0a, none elsewhere, and 128-bit loads of the corners."""
    for arch, kernels in measured.items():
        found = {n: k for n, k in kernels.items() if re.match(r"hopper::\w+<\w+, \d+>", n)}
        assert len(found) == (2 * (3 + 3 + 2) if arch == "sm_90" else 0), arch
        for name, kernel in found.items():
            assert kernel.hmma > 0, name
            assert kernel.load128 >= 16, name


def test_aligned_features_are_read_in_128_bits(measured):
    for kernels in measured.values():
        by_alignment = {True: {}, False: {}}
        for name, dtype, math, tile, aligned, kernel in matrix_kernels(kernels):
            by_alignment[aligned][name, dtype, math, tile] = kernel.load128
        for key, loads in by_alignment[True].items():
            assert loads >= by_alignment[False][key] + 4, key  # the four corners


def test_blocks_fit_the_devices(measured):
    """The tile that a device gets fits its shared memory; half types leave room for two blocks."""
    try:
        simt = emulator.load("plain")
    except emulator.Unavailable as reason:
        pytest.skip(str(reason))
    maths = {"__half": "float16", "__nv_bfloat16": "bfloat16"}
    for arch, kernels in measured.items():
        limit = static.DEVICES[arch][1]
        for name, dtype, math, tile, _, kernel in matrix_kernels(kernels):
            kind = maths.get(dtype, "tf32" if math == "tf32" else "float32")
            dynamic = simt.actpoint_shared_bytes(kind, tile, 25)[name]
            if dynamic > limit:
                assert tile > 64, (arch, name, math)  # a smaller tile is taken
                continue
            blocks = static.blocks_per_multiprocessor(kernel, arch, dynamic)
            assert blocks >= (2 if math == "half" and name == "forward_kernel" else 1), (arch, name)


def test_two_blocks_that_sum_in_windows_fit_every_device(measured):
    """The window is paid for by an output gradient in registers: they must suffice."""
    try:
        simt = emulator.load("plain")
    except emulator.Unavailable as reason:
        pytest.skip(str(reason))
    for arch, kernels in measured.items():
        variants = {n: re.fullmatch(r"(windowed::\w+)<(\w+), (\d+)>", n) for n in kernels}
        found = {name: m for name, m in variants.items() if m}
        assert len(found) == 2 * 3, arch  # of half types
        for name, m in found.items():
            dynamic = simt.actpoint_shared_bytes("bfloat16", int(m[3]), 25)[m[1]]
            assert static.blocks_per_multiprocessor(kernels[name], arch, dynamic) >= 2, (arch, name)
            assert kernels[name].hmma > 0, (arch, name)
            assert kernels[name].load128 > 4, (arch, name)  # four corners, weights


def test_numbers_are_those_of_the_budget(measured):
    """After a deliberate change: python tests/cuda/static.py, and commit what it wrote."""
    if static.compiler() != BUDGET["nvcc"]:
        pytest.skip(f"the budget is of nvcc {BUDGET['nvcc']}, here is {static.compiler()}")
    for arch, kernels in measured.items():
        found = {name: vars(kernel) for name, kernel in kernels.items()}
        assert found == BUDGET["kernels"][arch], arch

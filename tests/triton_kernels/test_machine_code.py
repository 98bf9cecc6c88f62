"""Static evidence about the Triton kernels: limits that hold, and numbers that change knowingly.

Every kernel and configuration that the operators launch at GGNet's sizes is compiled for every
target.
"""

import json
from dataclasses import asdict

import budget
import gathers
import pytest
import triton
from launches import CASES
from machine_code import NVIDIA, SHARED_LIMIT, TARGETS

BUDGET = json.loads(budget.BUDGET.read_text())
MATRIX = ("forward_kernel", "backward_kernel", "weight_grad_kernel")  # of the deformable operators

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[(c, t) for t in TARGETS for c in CASES], ids=" on ".join)
def compiled(request):
    """Case, target, and what became of each kernel and configuration."""
    case, target = request.param
    return case, target, budget.survey(case, target)


def parts(kernels):
    """(kernel's name, label, code)"""
    for label, code in kernels.items():
        yield label.split(" | ")[1], label, code


def test_nothing_is_spilled(compiled):
    *_, kernels = compiled
    assert not [label for _, label, code in parts(kernels) if code.spills]


def test_shared_memory_fits_the_device(compiled):
    _, target, kernels = compiled
    limit = SHARED_LIMIT[target]
    assert not [label for _, label, code in parts(kernels) if code.shared > limit]


def test_matrix_products_run_on_tensor_cores(compiled):
    *_, kernels = compiled
    for name, label, code in parts(kernels):
        assert (code.tensor_core > 0) == (name in MATRIX), label


def test_hoppers_own_products_are_among_the_configurations(compiled):
    """In each kernel and arithmetic; which configuration is fastest, a device says."""
    _, target, kernels = compiled
    by_warpgroups = {name for name, _, code in parts(kernels) if code.warpgroup}
    if target == "sm_90":
        assert by_warpgroups == {name for name, *_ in parts(kernels) if name in MATRIX}
    elif target == "sm_80":
        assert not by_warpgroups


def test_features_are_read_in_128_bits(compiled):
    """On NVIDIA's devices; AMD's compiler takes 64 bits for some slices."""
    _, target, kernels = compiled
    if target in NVIDIA:
        assert not [label for name, label, c in parts(kernels) if name in MATRIX and not c.load128]


def test_sums_are_atomic_only_where_said(compiled):
    """Only the features' gradient adds floats in any order, and not where bits must repeat."""
    case, _, kernels = compiled
    for name, label, code in parts(kernels):
        scattered = name in ("backward_kernel", "scatter_kernel")
        assert (code.atomics > 0) == scattered, label
        unordered = name == "backward_kernel" and not CASES[case].deterministic
        assert (code.float_atomics > 0) == unordered, label


def test_numbers_are_those_of_the_budget(compiled):
    """After a deliberate change: make triton-budget, and commit what it wrote."""
    if triton.__version__ != BUDGET["triton"]:
        pytest.skip(f"the budget is of triton {BUDGET['triton']}, here is {triton.__version__}")
    case, target, kernels = compiled
    known = BUDGET["kernels"][target]
    expected = {label: known[label] for label in known if label.startswith(f"{case} | ")}
    assert {label: asdict(code) for label, code in kernels.items()} == expected


def test_the_budget_holds_nothing_else():
    assert list(BUDGET["kernels"]) == list(TARGETS)
    for kernels in BUDGET["kernels"].values():
        assert {label.split(" | ")[0] for label in kernels} == set(CASES)


def test_each_sample_is_gathered_once():
    """At 256 outputs; in the interpreter, which counts the loads."""
    assert gathers.counted() == dict.fromkeys(MATRIX, 1.0) == BUDGET["gathers"]

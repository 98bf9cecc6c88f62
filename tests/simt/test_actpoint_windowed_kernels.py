"""The backward by mma.sync that sums the features' gradient in blocks, executed, against the
reference in float64."""

import numpy as np
import pytest
import test_actpoint_kernels as portable
from arrays import SIDE, from_array, to_array
from tolerances import MATRIX

MATHS = ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
# batch, channels, height, width, outputs, kernel, (stride, pad, dilation), spread of the offsets
CASES = {
    "whole tiles": (1, 64, 8, 16, 256, SIDE, (1, SIDE // 2, 1), 2.0),
    "parts of tiles": (2, 72, 9, 17, 200, 3, (1, 1, 1), 2.0),
    "one slice": (1, 32, 11, 5, 64, 3, (1, 1, 1), 1.0),
    "odd outputs": (1, 24, 7, 9, 33, 3, (1, 1, 1), 1.0),
    "far outside": (1, 40, 7, 5, 128, 5, (1, 2, 1), 60.0),
    "49 points": (1, 16, 6, 7, 100, 7, (1, 3, 1), 2.0),
    "strided": (2, 40, 18, 34, 136, 3, (2, 2, 2), 2.0),
    # Every pixel's points at the same cells: each batch of a list meets one cell several times.
    "still": (1, 64, 8, 16, 64, 3, (1, 1, 1), 0.0),
    "one channel block": (3, 8, 3, 3, 1, 3, (1, 1, 1), 1.0),
}
SLOW = ("whole tiles", "49 points", "strided")


def problem_of(monkeypatch, name, case, **options):
    monkeypatch.setitem(portable.CASES, name, case)
    return portable.Problem(name, **options)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("math", MATHS)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES],
)
def test_backward_equals_reference(simt, monkeypatch, case, math, deterministic):
    problem = problem_of(monkeypatch, case, CASES[case], math=math, seed=21)
    portable.check_data_gradients(simt, problem, deterministic, windowed=True)


def meet(problem, y, x):
    """All points of all pixels at (y, x)."""
    shape = problem.shape
    for row in range(shape["out_height"]):
        for column in range(shape["out_width"]):
            for k in range(shape["kernel_h"] * shape["kernel_w"]):
                tap = k // shape["kernel_w"], k % shape["kernel_w"]
                problem.offset[:, 2 * k, row, column] = y - row - tap[0] + shape["pad_h"]
                problem.offset[:, 2 * k + 1, row, column] = x - column - tap[1] + shape["pad_w"]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("at", [(3.5, 2.25), (-0.5, -0.5), (11.5, 11.5)])
def test_all_pixels_at_the_same_cells(simt, monkeypatch, at, deterministic):
    """Lists of 32 for some warps, of none for the others; at a corner of the map, one cell."""
    case = (1, 32, 12, 12, 64, 3, (1, 1, 1), 0.0)
    problem = problem_of(monkeypatch, "same", case, math="bfloat16", seed=22, base=False)
    meet(problem, *at)
    portable.check_data_gradients(simt, problem, deterministic, windowed=True)


@pytest.mark.parametrize("wanted", ["features", "points"])
def test_only_what_is_wanted(simt, monkeypatch, wanted):
    problem = problem_of(monkeypatch, "parts", CASES["parts of tiles"], math="bfloat16", seed=23)
    _, (features, offset, logits, *_) = problem.exact()
    exact = {"features": [features.permute(0, 2, 3, 1)], "points": [offset, logits]}[wanted]
    got = [problem.empty(t) for t in exact]
    places = (*got, None, None) if wanted == "features" else (None, *got)
    simt.actpoint_backward(
        **problem.inputs(), grad_out=to_array(problem.grad_out.permute(0, 2, 3, 1), "bfloat16"),
        weight=to_array(problem.weight, "bfloat16"), grad_features=places[0],
        grad_offset=places[1], grad_mask=places[2], deterministic=False, windowed=True,
    )  # fmt: skip
    for array, tensor in zip(got, exact, strict=True):
        assert portable.worst(from_array(array, "bfloat16"), tensor) < 2 * MATRIX["bfloat16"]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_infinity_and_nan_reach_what_the_other_kernel_lets_them_reach(simt, monkeypatch, value):
    problem = problem_of(
        monkeypatch, "one slice", CASES["one slice"], math="bfloat16", seed=24, base=False
    )
    problem.grad_out.view(-1)[7] = value
    results = []
    for windowed in (False, True):
        got = problem.empty(problem.features.permute(0, 2, 3, 1))
        simt.actpoint_backward(
            **problem.inputs(), grad_out=to_array(problem.grad_out.permute(0, 2, 3, 1), "bfloat16"),
            weight=to_array(problem.weight, "bfloat16"), grad_features=got,
            grad_offset=problem.empty(problem.offset), grad_mask=problem.empty(problem.logits),
            deterministic=False, windowed=windowed,
        )  # fmt: skip
        results.append(from_array(got, "bfloat16"))
    ordinary, windowed = results
    assert not ordinary.isfinite().all()
    assert np.array_equal(ordinary.isfinite(), windowed.isfinite())


@pytest.mark.parametrize(
    ("change", "case"),
    [
        ("channels no multiple of 8", (1, 36, 4, 4, 64, 3, (1, 1, 1), 1.0)),
        ("more than 256 outputs", (1, 16, 4, 4, 264, 3, (1, 1, 1), 1.0)),
        ("groups", (1, 32, 4, 4, 64, 3, (1, 1, 1), 1.0, 2, 1)),
        ("offset groups", (1, 32, 4, 4, 64, 3, (1, 1, 1), 1.0, 1, 2)),
    ],
)
def test_what_it_cannot_do_is_left_to_the_other_kernel(simt, monkeypatch, change, case):
    problem = problem_of(monkeypatch, change, case, math="bfloat16", seed=25)
    with pytest.raises(ValueError, match="cannot do this"):
        portable.check_data_gradients(simt, problem, False, windowed=True)


def test_float32_is_left_to_the_other_kernel(simt, monkeypatch):
    problem = problem_of(monkeypatch, "one slice", CASES["one slice"], math="float32", seed=26)
    with pytest.raises(ValueError, match="cannot do this"):
        portable.check_data_gradients(simt, problem, False, windowed=True)

"""The Hopper kernels of the deformable aggregation, executed, against the reference in float64."""

import numpy as np
import pytest
import test_actpoint_kernels as portable
from arrays import SIDE, from_array, to_array
from tolerances import MATRIX

RUNS = portable.RUNS
MATHS = ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
# batch, channels, height, width, outputs, kernel, (stride, pad, dilation), spread of the offsets
CASES = {
    "whole tiles": (1, 128, 8, 16, 256, SIDE, (1, SIDE // 2, 1), 2.0),
    "parts of tiles": (2, 136, 9, 17, 200, 3, (1, 1, 1), 2.0),
    "one slice": (1, 64, 11, 5, 64, 3, (1, 1, 1), 1.0),
    "far outside": (1, 72, 7, 5, 128, 5, (1, 2, 1), 60.0),
    "49 points": (1, 64, 6, 7, 104, 7, (1, 3, 1), 2.0),
    "strided": (2, 128, 18, 34, 136, 3, (2, 2, 2), 2.0),
    # Every pixel at the same cells: no batch of the scatter is without a meeting.
    "still": (1, 64, 8, 16, 64, 3, (1, 1, 1), 0.0),
}
SLOW = ("whole tiles", "49 points", "strided")


@pytest.fixture(
    params=[pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def problem(request, monkeypatch):
    def of(math, seed, **options):
        monkeypatch.setitem(portable.CASES, request.param, CASES[request.param])
        return portable.Problem(request.param, math, seed, **options)

    return of


@pytest.mark.parametrize("math", MATHS)
def test_forward_equals_reference(simt, problem, math):
    problem = problem(math, seed=11, relu=True)
    exact, _ = problem.exact()
    outputs = []
    for run in RUNS:
        simt.configure(workers=2, **run)
        out = problem.empty(exact.permute(0, 2, 3, 1))
        simt.actpoint_forward(
            **problem.inputs(), weight=to_array(problem.weight, math),
            bias=to_array(problem.bias, math), out=out, relu=True, hopper=True,
        )  # fmt: skip
        outputs.append(out)
    assert portable.worst(from_array(outputs[0], math).permute(0, 3, 1, 2), exact) < MATRIX[math]
    assert all(np.array_equal(out, outputs[0]) for out in outputs)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("math", MATHS)
def test_backward_equals_reference(simt, problem, math, deterministic):
    portable.check_data_gradients(simt, problem(math, seed=12), deterministic, hopper=True)


@pytest.mark.parametrize("math", MATHS)
def test_weight_gradient_equals_reference(simt, problem, math):
    problem = problem(math, seed=13)
    *_, weight, bias = problem.exact()[1]
    if problem.shape["channels"] < 128 or problem.shape["outputs"] < 128:
        pytest.skip("smaller weights take the kernels of other devices")
    results = []
    for run in RUNS:
        simt.configure(workers=2, **run)
        got = [problem.empty(weight), problem.empty(bias)]
        simt.actpoint_weight_grad(
            **problem.inputs(), grad_out=to_array(problem.grad_out.permute(0, 2, 3, 1), math),
            grad_weight=got[0], grad_bias=got[1], hopper=True,
        )  # fmt: skip
        results.append(got[0])
    assert portable.worst(from_array(results[0], math), weight) < 2 * MATRIX[math]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("splits", [1, 2])
def test_weight_gradient_over_many_tiles_of_pixels(simt, monkeypatch, splits):
    """So many that every stage of the pipeline is filled again."""
    monkeypatch.setitem(portable.CASES, "many tiles", (1, 128, 21, 33, 128, 3, (1, 1, 1), 2.0))
    problem = portable.Problem("many tiles", "bfloat16", seed=15)
    *_, weight, bias = problem.exact()[1]
    got = [problem.empty(weight), problem.empty(bias)]
    simt.configure(workers=2, order="shuffled", seed=3, async_early=True)
    simt.actpoint_weight_grad(
        **problem.inputs(), grad_out=to_array(problem.grad_out.permute(0, 2, 3, 1), "bfloat16"),
        grad_weight=got[0], grad_bias=got[1], hopper=True, splits=splits,
    )  # fmt: skip
    for array, exact in zip(got, (weight, bias), strict=True):
        assert portable.worst(from_array(array, "bfloat16"), exact) < 2 * MATRIX["bfloat16"]


@pytest.mark.parametrize(
    ("change", "case"),
    [
        ("channels no multiple of 8", (1, 68, 4, 4, 64, 3, (1, 1, 1), 1.0)),
        ("outputs no multiple of 8", (1, 64, 4, 4, 60, 3, (1, 1, 1), 1.0)),
        ("less than a slice of channels", (1, 32, 4, 4, 64, 3, (1, 1, 1), 1.0)),
    ],
)
def test_what_they_cannot_do_is_left_to_others(simt, monkeypatch, change, case):
    monkeypatch.setitem(portable.CASES, change, case)
    problem = portable.Problem(change, "bfloat16", seed=14)
    out = problem.empty(problem.grad_out.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="cannot do this"):
        simt.actpoint_forward(
            **problem.inputs(), weight=to_array(problem.weight, "bfloat16"),
            bias=to_array(problem.bias, "bfloat16"), out=out, relu=False, hopper=True,
        )  # fmt: skip

"""Shared memory of the deformable CUDA kernels and how often they gather a sample, executed.

    make simt-budget

rewrites tests/budget/emulated.json, which test_footprint.py compares with; then
tests/budget/table.py rewrites the table of docs/kernels.md. Outputs and points are
GGNet's, on a device with the shared memory of an H100; channels change neither number. Case
"Hopper" is what an H100 itself launches, "sums in blocks" what GGNET_BLOCK_SUMS=1 asks for, the
others what every device can.
"""

import json

import emulator
import numpy as np
import test_actpoint_kernels as kernels
from arrays import to_array

from ggnet._build import ROOT

BUDGET = ROOT / "tests/budget/emulated.json"
# Arithmetic; outputs, kernel. The names are those of the cases of Triton's budget.
HOPPER = "actpoint_aggregate, bfloat16, Hopper"
WINDOWED = "actpoint_aggregate, bfloat16, sums in blocks"
SIZES = {
    HOPPER: ("bfloat16", 256, 5),
    WINDOWED: ("bfloat16", 256, 5),
    "actpoint_aggregate, bfloat16": ("bfloat16", 256, 5),
    "actpoint_aggregate, float32": ("tf32x3", 256, 5),
    "actpoint_aggregate, float32 in TF32": ("tf32", 256, 5),
    "deform_conv2d, bfloat16": ("bfloat16", 64, 3),
}
KERNELS = {HOPPER: "hopper", WINDOWED: "windowed"}  # those of every device for the rest
CHANNELS, HEIGHT, WIDTH = 128, 8, 8
SHARED_LIMIT = 227 << 10


def shared(simt, size: str) -> dict[str, int]:
    """Kernel -> bytes of a block."""
    simt.configure(workers=2, shared_limit=SHARED_LIMIT)
    found = {}
    for name, run in runs(simt, _problem(size, inside=False), KERNELS.get(size)).items():
        run()
        found[name] = simt.counters()["shared_bytes_per_block"]
    return found


def gathers(simt, size: str) -> dict[str, float]:
    """Kernel -> bytes that it loads for the samples, by bytes of their corners.

    Only the traced variant counts loads. What a run with every point outside loads is not gathered.
    """
    simt.configure(workers=2, shared_limit=SHARED_LIMIT)
    math, _, side = SIZES[size]
    itemsize = 2 if math == "bfloat16" else 4
    corners = 4 * HEIGHT * WIDTH * side**2 * CHANNELS * itemsize
    loaded = []
    for inside in (True, False):
        counts = {}
        for name, run in runs(simt, _problem(size, inside), KERNELS.get(size)).items():
            run()
            counts[name] = simt.counters()["load_bytes"]
        loaded.append(counts)
    return {name: (loaded[0][name] - loaded[1][name]) / corners for name in loaded[0]}


def _problem(size: str, inside: bool) -> kernels.Problem:
    math, outputs, side = SIZES[size]
    steps = (1, side // 2, 1)
    kernels.CASES[size] = (1, CHANNELS, HEIGHT, WIDTH, outputs, side, steps, 0.0)
    problem = kernels.Problem(size, math, seed=0, base=False)
    del kernels.CASES[size]
    # Each point to the middle of four cells, or far away.
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for k in range(side**2):
                dy, dx = k // side - side // 2, k % side - side // 2
                problem.offset[0, 2 * k, y, x] = HEIGHT / 2 - 0.5 - y - dy if inside else 1e4
                problem.offset[0, 2 * k + 1, y, x] = WIDTH / 2 - 0.5 - x - dx if inside else 1e4
    return problem


def runs(simt, problem: kernels.Problem, which: str | None) -> dict:
    """Kernel -> a call of it."""
    asked = {which: True} if which else {}
    dtype = kernels.dtype_of(problem.math)
    rows = problem.empty(problem.grad_out.permute(0, 2, 3, 1))
    weight = to_array(problem.weight, dtype)
    grad_out = to_array(problem.grad_out.permute(0, 2, 3, 1), dtype)
    calls = {
        "forward_kernel": lambda: simt.actpoint_forward(
            **problem.inputs(), weight=weight, bias=to_array(problem.bias, dtype), out=rows,
            relu=True, **asked,
        ),
        "backward_kernel": lambda: simt.actpoint_backward(
            **problem.inputs(), grad_out=grad_out, weight=weight,
            grad_features=problem.empty(problem.features.permute(0, 2, 3, 1)),
            grad_offset=problem.empty(problem.offset), grad_mask=problem.empty(problem.logits),
            deterministic=False, **asked,
        ),
        "weight_grad_kernel": lambda: simt.actpoint_weight_grad(
            **problem.inputs(), grad_out=grad_out, grad_weight=np.empty_like(weight),
            grad_bias=problem.empty(problem.bias), **asked,
        ),
    }  # fmt: skip
    return {"backward_kernel": calls["backward_kernel"]} if which == "windowed" else calls


def main() -> None:
    """Write the budget."""
    simt = emulator.load("traced")
    found = {}
    for size in SIZES:
        bytes, counts = shared(simt, size), gathers(simt, size)
        found[size] = {name: {"shared": bytes[name], "gathers": counts[name]} for name in bytes}
    BUDGET.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

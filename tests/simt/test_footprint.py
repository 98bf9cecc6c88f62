"""The committed footprint of the deformable CUDA kernels is what they have."""

import json

import footprint
import pytest
import test_actpoint_kernels as kernels

BUDGET = json.loads(footprint.BUDGET.read_text())


@pytest.mark.parametrize("size", footprint.SIZES)
def test_shared_memory_is_that_of_the_budget(simt, size):
    """After a deliberate change: make simt-budget, and commit what it wrote."""
    known = {name: entry["shared"] for name, entry in BUDGET[size].items()}
    assert footprint.shared(simt, size) == known


@pytest.mark.parametrize("size", footprint.SIZES)
def test_each_sample_is_gathered_once(simt, size):
    if not simt.traced:
        pytest.skip("needs GGNET_SIMT_VARIANT=traced")
    counted = footprint.gathers(simt, size)
    assert counted == dict.fromkeys(BUDGET[size], 1.0)
    assert counted == {name: entry["gathers"] for name, entry in BUDGET[size].items()}


@pytest.mark.parametrize(("down", "right"), [(-5, -5), (5, 5), (-5, 5), (0, 0)])
def test_hopper_sums_what_is_near_a_tile_in_its_block(simt, monkeypatch, down, right):
    """Each cell that a tile's points meet is added to global memory once, up to five cells away."""
    if not simt.traced:
        pytest.skip("needs GGNET_SIMT_VARIANT=traced")
    height, width, channels, side = 24, 32, 64, 3
    case = (1, channels, height, width, 64, side, (1, 1, 1), 0.0)
    monkeypatch.setitem(kernels.CASES, "near", case)
    problem = kernels.Problem("near", "bfloat16", seed=0, base=False)
    for k in range(side**2):  # of all points to the middle of the same four cells
        problem.offset[:, 2 * k] = down + 0.5 - (k // side - 1)
        problem.offset[:, 2 * k + 1] = right + 0.5 - (k % side - 1)
    simt.configure(workers=2, shared_limit=footprint.SHARED_LIMIT)
    footprint.runs(simt, problem, hopper=True)["backward_kernel"]()

    def met(first, size, extent):
        return len(set(range(first, first + size + 1)) & set(range(extent)))

    cells = sum(
        met(top + down, 8, height) * met(left + right, 16, width)
        for top in range(0, height, 8)
        for left in range(0, width, 16)
    )
    assert simt.counters()["atomic_bytes"] == cells * channels * 4

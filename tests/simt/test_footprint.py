"""The committed footprint of the deformable CUDA kernels is what they have."""

import json

import footprint
import pytest
import test_actpoint_kernels as portable

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


@pytest.mark.parametrize(("down", "right"), [(-1, -1), (1, 1), (-1, 1), (0, 0)])
@pytest.mark.parametrize(
    ("kernels", "tile", "reach"), [("hopper", (8, 16), 5), ("windowed", (8, 8), 4)]
)
def test_what_is_near_a_tile_is_summed_in_its_block(
    simt, monkeypatch, kernels, tile, reach, down, right
):
    """Each cell that a tile's points meet is added to global memory once, up to `reach` away."""
    if not simt.traced:
        pytest.skip("needs GGNET_SIMT_VARIANT=traced")
    height, width, channels, side = 24, 32, 64, 3
    down, right = down * reach, right * reach
    case = (1, channels, height, width, 64, side, (1, 1, 1), 0.0)
    monkeypatch.setitem(portable.CASES, "near", case)
    problem = portable.Problem("near", "bfloat16", seed=0, base=False)
    for k in range(side**2):  # of all points to the middle of the same four cells
        problem.offset[:, 2 * k] = down + 0.5 - (k // side - 1)
        problem.offset[:, 2 * k + 1] = right + 0.5 - (k % side - 1)
    simt.configure(workers=2, shared_limit=footprint.SHARED_LIMIT)
    footprint.runs(simt, problem, kernels)["backward_kernel"]()

    def met(first, size, extent):
        return len(set(range(first, first + size + 1)) & set(range(extent)))

    cells = sum(
        met(top + down, tile[0], height) * met(left + right, tile[1], width)
        for top in range(0, height, tile[0])
        for left in range(0, width, tile[1])
    )
    assert simt.counters()["atomic_bytes"] == cells * channels * 4

"""The committed footprint of the deformable CUDA kernels is what they have."""

import json

import footprint
import pytest

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

"""The CUDA text of the point matching, executed, against the reference."""

import numpy as np
import pytest
import torch
from arrays import ORDERS

from ggnet import reference

RULES = {"product": 0, "distance": 1}
IDENTITIES = ({"allow_same": True}, {}, {"one_list": True})


def peaks(batch, count, channels, dtype, generator, size=12):
    """Scores with ties and zeros; few cells, so that distances tie as well."""

    def integers(high):
        return torch.randint(0, high, (batch, count), generator=generator)

    return integers(5).to(dtype) / 4, integers(channels), integers(size), integers(size)


def match(
    simt, interactions, humans, objects, human_offsets, object_offsets, valid, rule, identity=0
):
    batch, count = interactions[0].shape
    human, object_ = (np.full((batch, count), -7, np.int64) for _ in range(2))
    score = np.full((batch, count), np.nan, human_offsets.numpy().dtype)
    function = getattr(simt, f"match_points_{score.dtype.name}")
    function(
        *(tuple(t.numpy() for t in kind) for kind in (interactions, humans, objects)),
        human_offsets.numpy(), object_offsets.numpy(), None if valid is None else valid.numpy(),
        human, object_, score, batch=batch, count=count,
        num_humans=humans[0].shape[1], num_objects=objects[0].shape[1],
        verbs=0 if valid is None else valid.shape[0],
        classes=0 if valid is None else valid.shape[1], rule=RULES[rule], identity=identity,
    )  # fmt: skip
    return torch.from_numpy(human), torch.from_numpy(object_), torch.from_numpy(score)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("batch", "count", "humans", "objects"),
    [(1, 1, 1, 1), (3, 17, 5, 70), (2, 40, 100, 33), (1, 5, 0, 3), (2, 0, 4, 4), (1, 3, 2, 0)],
)
def test_equals_the_reference(simt, batch, count, humans, objects, rule, table, dtype):
    generator = torch.Generator().manual_seed(batch + count)
    arguments = (
        peaks(batch, count, 6, dtype, generator),
        peaks(batch, humans, 1, dtype, generator),
        peaks(batch, objects, 5, dtype, generator),
        torch.randn(batch, count, 2, generator=generator, dtype=dtype).mul(3).round(),
        torch.randn(batch, count, 2, generator=generator, dtype=dtype) * 4,
    )
    valid = torch.rand(6, 5, generator=generator) < 0.5 if table else None
    exact = reference.match_points(*arguments, valid, rule=rule, allow_same=True)
    for order in ORDERS:
        simt.configure(workers=2, **order)
        got = match(simt, *arguments, valid, rule)
        assert all(torch.equal(a, b) for a, b in zip(got, exact, strict=True))


def test_what_the_table_does_not_name_matches_nothing(simt):
    generator = torch.Generator().manual_seed(0)
    interactions, objects = (peaks(2, 30, 6, torch.float32, generator) for _ in range(2))
    humans = peaks(2, 5, 1, torch.float32, generator)
    offsets = torch.zeros(2, 30, 2)
    small = torch.ones(4, 3, dtype=torch.bool)
    _, found, _ = match(simt, interactions, humans, objects, offsets, offsets, small, "product")
    assert (found[interactions[1] >= 4] == -1).all()
    assert (objects[1].gather(1, found.clamp_min(0))[found >= 0] < 3).all()
    assert (found[interactions[1] < 4] >= 0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("offset", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_offsets_that_lead_nowhere(simt, rule, offset):
    generator = torch.Generator().manual_seed(0)
    interactions, humans, objects = (peaks(1, 4, 1, torch.float32, generator) for _ in range(3))
    offsets = torch.zeros(1, 4, 2)
    offsets[0, 1, 0] = offset
    exact = reference.match_points(
        interactions, humans, objects, offsets, offsets, rule=rule, allow_same=True
    )
    got = match(simt, interactions, humans, objects, offsets, offsets, None, rule)
    assert all(torch.equal(a, b) for a, b in zip(got, exact, strict=True))
    if not np.isfinite(offset):
        assert got[0][0, 1] == -1
        assert got[2][0, 1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("identity", "meaning"), list(enumerate(IDENTITIES)))
def test_humans_among_the_objects(simt, identity, meaning, rule, table, dtype):
    """Cells repeat, within a class too."""
    generator = torch.Generator().manual_seed(7)
    persons = peaks(2, 40, 2, dtype, generator, size=4)
    arguments = (
        peaks(2, 33, 6, dtype, generator, size=4),
        persons,
        tuple(part if identity == 2 else part.flip(1) for part in persons),
        torch.randn(2, 33, 2, generator=generator, dtype=dtype).round(),
        torch.randn(2, 33, 2, generator=generator, dtype=dtype),
    )
    valid = torch.rand(6, 2, generator=generator) < 0.8 if table else None
    exact = reference.match_points(*arguments, valid, rule=rule, **meaning)
    free = reference.match_points(*arguments, valid, rule=rule, allow_same=True)
    assert torch.equal(exact[1], free[1]) == (identity == 0)
    for order in ORDERS:
        simt.configure(workers=2, **order)
        got = match(simt, *arguments, valid, rule, identity)
        assert all(torch.equal(a, b) for a, b in zip(got, exact, strict=True))


def test_scores_so_small_that_a_quality_overflows(simt):
    generator = torch.Generator().manual_seed(0)
    interactions, humans, objects = (peaks(1, 50, 1, torch.float32, generator) for _ in range(3))
    humans = (torch.where(humans[0] > 0.5, 1e-40, 0.0), *humans[1:])
    offsets = torch.zeros(1, 50, 2)
    exact = reference.match_points(
        interactions, humans, objects, offsets, offsets, rule="distance", allow_same=True
    )
    assert (exact[0] >= 0).all()
    got = match(simt, interactions, humans, objects, offsets, offsets, None, "distance")
    assert all(torch.equal(a, b) for a, b in zip(got, exact, strict=True))

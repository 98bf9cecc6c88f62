"""Means, spreads and paired intervals against numbers worked by hand."""

import math

import numpy as np
import pytest

from ggnet.ablate.statistics import paired_difference, spread


def test_mean_and_spread():
    found = spread([50.0, 52.0, 57.0])
    assert (found.count, found.mean) == (3, 53.0)
    assert found.deviation == pytest.approx(math.sqrt((9 + 1 + 16) / 2))


def test_one_seed_has_no_spread():
    assert math.isnan(spread([50.0]).deviation)


def test_the_interval_of_a_paired_difference():
    """Differences 1, 2, 3, 4, 5: mean 3, deviation sqrt(2.5), error sqrt(2.5 / 5) = 0.7071, and
    Student's t of 4 degrees of freedom is 2.7764 at 97.5 %."""
    theirs = {317: 40.0, 318: 45.0, 319: 41.0, 320: 44.0, 321: 42.0}
    ours = {seed: value + seed - 316 for seed, value in theirs.items()}
    found = paired_difference(ours, theirs)
    assert (found.count, found.mean) == (5, 3.0)
    assert found.high - found.mean == pytest.approx(2.776445 * math.sqrt(0.5), rel=1e-6)
    assert found.low + found.high == pytest.approx(6.0)
    # t = 3 / sqrt(0.5) = 4.2426: for 4 degrees of freedom p = 1 - s (1 + (1 - s^2) / 2), where
    # s = t / sqrt(4 + t^2) = sqrt(18 / 22)
    s = math.sqrt(18 / 22)
    assert found.p == pytest.approx(1 - s * (1 + (1 - s * s) / 2), rel=1e-9)
    assert found.verdict == "higher"
    assert paired_difference(theirs, ours).verdict == "lower"


def test_only_seeds_of_both_count():
    found = paired_difference({1: 10.0, 2: 20.0, 9: 99.0}, {1: 9.0, 2: 17.0, 3: 0.0})
    assert (found.count, found.mean) == (2, 2.0)
    # differences 1 and 3: error 1, t of 1 degree of freedom is tan(0.475 pi)
    assert found.high - found.mean == pytest.approx(math.tan(0.475 * math.pi))
    assert found.verdict == "cannot tell"


@pytest.mark.parametrize(("ours", "theirs"), [({1: 3.0}, {1: 2.0}), ({}, {1: 2.0})])
def test_too_few_seeds_say_nothing(ours, theirs):
    found = paired_difference(ours, theirs)
    assert found.verdict == "cannot tell"
    assert math.isinf(found.high)
    assert math.isnan(found.p)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        scene = rng.normal(40, 3, 5)  # what both rows share
        ours = dict(enumerate(scene + rng.normal(1.0, 2, 5)))
        theirs = dict(enumerate(scene + rng.normal(0.0, 1, 5)))
        found = paired_difference(ours, theirs)
        hits += found.low <= 1.0 <= found.high
    assert 0.93 < hits / 2000 < 0.97


def test_equal_differences():
    same = {1: 2.0, 2: 3.0}
    assert paired_difference(same, same).verdict == "cannot tell"
    assert paired_difference(same, same).p == 1
    assert paired_difference({1: 3.0, 2: 4.0}, same).verdict == "higher"

"""What a few seeds say: mean, spread, and the paired difference of two rows with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isclose, nan, sqrt

import numpy as np
from scipy.stats import t as student

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) of one row over its seeds; NaN where too few."""

    count: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class Difference:
    """Mean of the differences at equal seeds, its confidence interval, the two-sided p value."""

    count: int
    mean: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "cannot tell"


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread of a row's results."""
    count = len(values)
    mean = float(np.mean(values)) if count else nan
    return Spread(count, mean, float(np.std(values, ddof=1)) if count > 1 else nan)


def paired_difference(
    ours: Mapping[int, float], theirs: Mapping[int, float], confidence: float = CONFIDENCE
) -> Difference:
    """Student's paired t over the seeds that both have.

    Runs of one seed begin with the same random numbers and see the same batches, so that their
    difference varies less than two independent runs' would. With one seed there is no interval
    (infinite), with none no mean (NaN).

    Args:
        ours, theirs: seed -> result.
        confidence: of the interval.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    found = spread([ours[seed] - theirs[seed] for seed in seeds])
    if found.count < 2:
        return Difference(found.count, found.mean, -inf, inf, nan)
    error = found.deviation / sqrt(found.count)
    half = float(student.ppf((1 + confidence) / 2, found.count - 1)) * error
    if error > 0:
        p = float(2 * student.sf(abs(found.mean) / error, found.count - 1))
    else:
        p = 1.0 if isclose(found.mean, 0, abs_tol=1e-12) else 0.0
    return Difference(found.count, found.mean, found.mean - half, found.mean + half, p)

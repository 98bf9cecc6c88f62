"""The driver's measurements as a pytest-benchmark suite, to compare with saved runs:

make bench BENCH_ARGS="--benchmark-autosave --benchmark-compare"
"""

import pytest
import torch

from bench import measure
from bench.__main__ import prepare
from bench.cases import CASES, Missing, case

PROVIDERS = sorted({name for op in CASES for name in case(op).providers})


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("mode", ["forward", "full"])
@pytest.mark.parametrize("op", CASES)
def test_operator(benchmark, op, mode, provider):
    if provider not in case(op).providers:
        pytest.skip(f"{op} has no provider {provider}")
    try:
        step = measure.step(*prepare(op, mode, "float32", provider), mode)
    except Missing as reason:
        pytest.skip(str(reason))
    benchmark.group = f"{op}, {mode}"
    benchmark.extra_info["torch"] = torch.__version__
    benchmark.pedantic(step, rounds=3, warmup_rounds=1)

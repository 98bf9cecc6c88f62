import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench/ is not installed

from bench import publish  # noqa: E402
from bench.cases import CASES, case, fields  # noqa: E402


def results(ggnet, dense, extra):
    common = {
        "op": "actpoint_aggregate",
        "shape": publish.ACTPOINT,
        "mode": "forward",
        "dtype": "float32",
        "gflops": 100.0,
        "gbs": 1.0,
    }
    return {
        "machine": {"cpu": "CPU", "isa": "AVX2", "threads": 2, "torch": "2", "clock": "wall time"},
        "ceilings": {"gemm_gflops": 200.0, "copy_gbs": 10.0},
        "rows": [
            {**common, "provider": "ggnet", "seconds": ggnet, "extra_bytes": extra},
            {**common, "provider": "dense conv2d", "seconds": dense},
        ],
    }


@pytest.mark.parametrize(
    ("dense", "extra", "missed"), [(0.2, 40e6, []), (0.1, 50e6, ["dense 5x5", "extra MB"])]
)
def test_published_goals_are_judged_by_ggnets_time_and_memory(dense, extra, missed):
    found = publish.goals(results(0.2, dense, extra))
    assert [(round(value, 9)) for _, _, value in found] == [0.2 / dense, extra / 1e6]
    lines = publish.markdown(results(0.2, dense, extra)).splitlines()
    bad = [line for line in lines if line.endswith("missed |")]
    assert len(bad) == len(missed)
    assert all(word in line for word, line in zip(missed, bad, strict=True))


def test_table_has_the_peers_time_over_ggnets():
    lines = publish.markdown(results(0.2, 0.3, 1e6)).splitlines()
    line = next(line for line in lines if line.startswith("| `"))
    assert "| 1.5 |" in line


def test_readme_has_one_place_for_each_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [text.count(begin) for begin in publish.BEGIN.values()] == [1, 1]
    assert text.count(publish.END) == 2


def test_a_shape_has_a_number_for_each_field():
    for name, (_, usual) in CASES.items():
        assert len(fields(name)) == len(usual)
    assert case("actpoint", (2, 8, 4, 6, 3)).shape == "2x8x6x6, 4 outputs, 9 points"

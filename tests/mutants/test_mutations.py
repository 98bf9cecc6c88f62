"""The mutants are what they say, and can be applied."""

import ast
import json
from pathlib import Path

import mutations
import pytest
import run

SOURCE = '''
def f(a: int = 3, b=-1) -> bool:
    """1 + 1"""
    total = min(a, b) + 2
    if a < b and not total:
        raise ValueError(f"{a + b} is 1")
    total += a
    print(total)
    return -total
'''
KERNEL = """
template <int kSize = 3>
__global__ void kernel(const float* x, int n) {
  const int i = threadIdx.x;  // 1 + 1
  if (i >= n || x[i] < 0) return;
  STD_TORCH_CHECK(n == 1, "1");
  y[i] = -x[i] + std::max(x[0], 2);
}
"""


def changes(mutants):
    return {(m.rule, m.before.strip(), m.after.strip()) for m in mutants}


def test_python():
    found = changes(mutations.of_python("f.py", SOURCE))
    assert found == {
        ("extreme", "total = min(a, b) + 2", "total = max(a, b) + 2"),
        ("sign", "total = min(a, b) + 2", "total = min(a, b) - 2"),
        ("constant", "total = min(a, b) + 2", "total = min(a, b) + 3"),
        ("comparison", "if a < b and not total:", "if a <= b and not total:"),
        ("and, or", "if a < b and not total:", "if a < b or not total:"),
        ("negation", "if a < b and not total:", "if (not (a < b and (not total))):"),
        ("statement", "total += a", "pass"),
        ("statement", "print(total)", "pass"),
        ("minus", "return -total", "return total"),
    }


def test_cuda():
    found = changes(mutations.of_tokens("f.cuh", KERNEL))
    test, sum_ = "if (i >= n || x[i] < 0) return;", "y[i] = -x[i] + std::max(x[0], 2);"
    assert {after for _, before, after in found if before == test} == {
        "if (i > n || x[i] < 0) return;", "if (i >= n || x[i] <= 0) return;",
        "if (i >= n && x[i] < 0) return;", "if (i >= n || x[i] < 1) return;",
        "if (i >= n || x[(i) + 1] < 0) return;", "if (!(i >= n || x[i] < 0)) return;",
    }  # fmt: skip
    assert {after for _, before, after in found if before == sum_} == {
        "y[i] = x[i] + std::max(x[0], 2);", "y[i] = -x[i] - std::max(x[0], 2);",
        "y[i] = -x[i] + std::min(x[0], 2);", "y[i] = -x[i] + std::max(x[1], 2);",
        "y[i] = -x[i] + std::max(x[0], 3);", "y[(i) + 1] = -x[i] + std::max(x[0], 2);",
        "y[i] = -x[(i) + 1] + std::max(x[0], 2);", "y[i] = -x[i] + std::max(x[(0) + 1], 2);", ";",
    }  # fmt: skip
    assert not [m for m in found if "STD_TORCH_CHECK" in m[1] or "template" in m[1]]


@pytest.mark.parametrize("name", run.GROUPS)
def test_every_file_has_its_tests_and_the_same_mutants_again(name):
    mutants = run.candidates(run.GROUPS[name])
    assert len(mutants) > 500
    for mutant in mutants:
        assert mutant.before != mutant.after
        for test in run.GROUPS[name].tests_of(mutant.path):
            assert (run.ROOT / test).exists(), test
    first = [m for _, m in run.chosen([name], 5, 0, "*")]
    assert [m for _, m in run.chosen([name], 9, 0, "*")][:5] == first
    for mutant in first:
        text = (run.ROOT / mutant.path).read_text()
        changed = mutant.apply(text).split("\n")
        assert sum(a != b for a, b in zip(text.split("\n"), changed, strict=True)) == 1
        if mutant.path.endswith(".py"):
            ast.parse("\n".join(changed))


def test_explanations_are_of_lines_that_there_are():
    for entry in json.loads(run.EQUIVALENT.read_text()):
        lines = (Path(run.ROOT) / entry["path"]).read_text().split("\n")
        assert entry["before"] in [line.strip() for line in lines], entry
        assert entry["why"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("cuda", "csrc/*/*_kernels.cuh"),
        ("cpu", "csrc/*/*_cpu.cpp"),
        ("triton", "kernels/[a-z]*.py"),
        ("python", "ggnet/models/*.py"),
    ],
)
def test_no_kernel_and_no_model_is_left_out(name, pattern):
    files = {str(path.relative_to(run.ROOT)) for path in run.ROOT.glob(pattern)}
    assert files
    assert not [path for path in files if not run.GROUPS[name].tests_of(path)]

"""docs/benchmarks.md and docs/install.md: each command printed there runs, or says why not here."""

import re
import shutil

import pytest
from pages import ROOT, Shell, commands

# A command as printed -> what makes it small.
ONE_CASE = "--op topk_peaks --repeats 1 --budget 0.1 --no-memory"
SMALL = {
    "python -m bench": ONE_CASE,
    "python -m bench --op actpoint --mode full --dtype bfloat16 --shape 2,64,64,96,3 --provider "
    "ggnet": "--repeats 1 --budget 0.1 --no-memory",
    "python -m bench --threads 1 --cpu-time --append --out bench/results/cpu.json": ONE_CASE,
    "python -m bench --publish bench/results/cpu.json bench/results/cpu-deform.json "
    "bench/results/h100.json": "",
    "python -m bench model --publish bench/results/h100-networks.json "
    "bench/results/cpu-networks.json": "",
    "ggnet env": "",
}
MAKE = {"make bench": "BENCH_ARGS='-k topk_peaks-forward-ggnet'"}
NOT_HERE = {
    "python -m bench dropin": "minutes, and needs torchvision; tests/test_bench.py measures "
    "smaller networks where that is installed",
    "python -m bench model --preset goals": "minutes: hourglass104 at 512 x 512; "
    "tests/test_bench.py measures smaller networks",
    "make bench-eval": "minutes: the size of the test sets is what it is about",
    "pip install -e .": "changes the environment; tests/install/check.sh runs it in clean ones",
}


def test_every_command_is_accounted_for():
    printed = [*commands("docs/benchmarks.md"), *commands("docs/install.md")]
    assert sorted(printed) == sorted([*SMALL, *MAKE, *NOT_HERE])
    assert 'pip" install -e .' in (ROOT / "tests/install/check.sh").read_text()


@pytest.mark.slow
def test_commands_of_the_benchmarks_page(tmp_path):
    clone = tmp_path / "clone"
    for name in ("bench", "docs"):
        shutil.copytree(ROOT / name, clone / name)
    results = clone / "bench" / "results"
    published = results.rename(tmp_path / "results")
    shell = Shell(clone)
    for line, small in SMALL.items():
        if "--publish" in line:  # of the committed figures: the page stays as it is
            shutil.rmtree(results)
            shutil.copytree(published, results)
            before = (clone / "docs/benchmarks.md").read_text()
            shell.run(line)
            assert (clone / "docs/benchmarks.md").read_text() == before
        else:
            said = shell.run(f"{line} {small}")
            assert line == "ggnet env" or "written to bench/results/" in said


@pytest.mark.slow
def test_make_bench(tmp_path):
    [recipe] = re.findall(
        r"^bench: setup.*\n\t\$\(BIN\)/(.*) \$\(BENCH_ARGS\)$",
        (ROOT / "Makefile").read_text(),
        re.M,
    )
    shutil.copytree(ROOT / "bench", tmp_path / "clone" / "bench")
    arguments = MAKE["make bench"].partition("=")[2].strip("'")
    assert "1 passed" in Shell(tmp_path / "clone").run(f"{recipe} {arguments} -p no:cacheprovider")

"""Do the tests notice? Mutates the source, one line at a time, and runs the tests of that file.

    python tests/mutants/run.py [--each 30] [--seed 0] [--group cuda ...] [--only PATTERN]
    python tests/mutants/run.py --report

Works in a copy of the tree, build/mutants/tree. Results are appended to
build/mutants/results.jsonl and not made again, so it may be stopped at any time; a mutant takes
seconds to minutes. Mutants that compute the same as the original, or whose line only a GPU or a
processor with AMX runs, are listed in equivalent.json, with the reason. Exit status 1: a mutant
survived.
"""

import argparse
import fnmatch
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

import mutations
from mutations import Mutant

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build/mutants"
TREE, RESULTS = WORK / "tree", WORK / "results.jsonl"
EQUIVALENT = Path(__file__).parent / "equivalent.json"
BUILT = ("ggnet/_C.abi3.so", "ggnet/_build_info.json")
INTERPRETED = {"GGNET_BACKEND": "triton", "TRITON_INTERPRET": "1"}
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
VARIANT = "GGNET_SIMT_VARIANT"
EMULATE = (
    "import os, sys; sys.path.insert(0, 'tests/simt'); import emulator; "
    f"emulator.build(os.environ.get('{VARIANT}', 'plain'))"
)
BUILD_SECONDS = BASE_SECONDS = 1200
PATIENCE = 5  # times what the tests take without a change, and a minute more


@dataclass(frozen=True)
class Group:
    """Sources, and what finds out about a change in them."""

    tests: dict[str, str]  # pattern of a path (the first that fits counts) -> its tests
    build: tuple[str, ...] = ()  # Python's arguments
    environments: tuple[dict[str, str], ...] = ({},)  # the tests run in each, until one notices

    def tests_of(self, path: str) -> list[str]:
        return next(
            (
                tests.split()
                for pattern, tests in self.tests.items()
                if fnmatch.fnmatch(path, pattern)
            ),
            [],
        )


DEFORMABLE = (
    "tests/ops/test_actpoint_aggregate.py tests/ops/test_deform_conv2d.py "
    "tests/ops/test_deform_groups.py"
)
# As in .ci/run: an index that is out of bounds may read what harms nobody, which the sanitizers
# tell; and what is slow without being wrong shows in the counters.
SANITIZED, TRACED = {VARIANT: "asan", "ASAN_OPTIONS": "detect_leaks=0"}, {VARIANT: "traced"}
INFERENCE = "tests/engine/test_inference.py"
TRAINING = "tests/engine/test_trainer.py"
GROUPS = {
    "cuda": Group(
        {
            "csrc/actpoint/*hopper*.cuh": "tests/simt/test_actpoint_hopper_kernels.py "
            "tests/simt/test_footprint.py",
            "csrc/actpoint/*windowed*.cuh": "tests/simt/test_actpoint_windowed_kernels.py "
            "tests/simt/test_footprint.py",
            "csrc/actpoint/*.cuh": "tests/simt/test_actpoint_kernels.py "
            "tests/simt/test_footprint.py",
        }
        | {
            f"csrc/{op}/*.cuh": f"tests/simt/test_{op}_kernels.py"
            for op in ("draw_heatmaps", "hna_loss", "match_points", "topk_peaks")
        },
        build=("-c", EMULATE),
        environments=({}, SANITIZED, TRACED),
    ),
    "cpu": Group(
        {
            "csrc/actpoint/*_cpu*": f"{DEFORMABLE} tests/ops/test_rounding.py",
            "csrc/common/vec.h": f"{DEFORMABLE} tests/ops/test_rounding.py",
            "csrc/common/elementwise.h": "tests/ops/test_hna_loss.py tests/ops/test_topk_peaks.py "
            "tests/ops/test_rounding.py",
        }
        | {
            f"csrc/{op}/*_cpu.cpp": f"tests/ops/test_{op}.py"
            for op in ("draw_heatmaps", "hna_loss", "match_points", "topk_peaks")
        },
        build=("setup.py", "--quiet", "build_ext", "--inplace"),
        # Built as well to compute without AVX-512 and AMX what those instructions would.
        environments=(
            {"GGNET_CUDA": "0"},
            {"GGNET_CUDA": "0", "CFLAGS": "-DGGNET_EMULATE_AVX512"},
        ),
    ),
    "triton": Group(
        {
            "kernels/*deform*.py": DEFORMABLE,
            "kernels/actpoint_aggregate.py": DEFORMABLE,
            "kernels/common.py": f"{DEFORMABLE} tests/ops/test_hna_loss.py",
        }
        | {
            f"kernels/{op}.py": f"tests/ops/test_{op}.py"
            for op in ("draw_heatmaps", "hna_loss", "match_points", "topk_peaks")
        },
        environments=(INTERPRETED,),
    ),
    "python": Group(
        {
            "ggnet/cores.py": "tests/test_cores.py",
            "ggnet/data/images.py": "tests/data/test_images.py",
            "ggnet/data/targets.py": f"tests/data/test_targets.py {INFERENCE}",
            "ggnet/data/transforms.py": f"tests/data/test_transforms.py {INFERENCE}",
            "ggnet/data/preprocess.py": f"tests/data/test_preprocess.py {INFERENCE}",
            "ggnet/data/batch.py": "tests/data/test_loader.py tests/data/test_targets.py",
            "ggnet/data/dataset.py": "tests/data/test_loader.py tests/data/test_workers.py",
            "ggnet/data/transport.py": "tests/data/test_workers.py",
            "ggnet/data/duplicates.py": "tests/data/test_duplicates.py",
            "ggnet/eval/hico.py": "tests/eval tests/data/test_unseen.py",
            "ggnet/eval/*.py": "tests/eval",
            "ggnet/engine/inference.py": f"{INFERENCE} tests/api/test_model.py "
            "tests/models/test_sparse.py",
            "ggnet/engine/optim.py": f"tests/engine/test_optim.py {TRAINING}",
            "ggnet/engine/checkpoint.py": "tests/engine/test_checkpoint.py tests/api/test_model.py "
            f"{TRAINING}",
            "ggnet/engine/forecast.py": "tests/engine/test_forecast.py",
            "ggnet/engine/saving.py": "tests/engine/test_saving.py",
            "ggnet/engine/trainer.py": f"{TRAINING} tests/engine/test_execution.py "
            "tests/engine/test_importing.py",
            "ggnet/engine/step.py": f"tests/engine/test_step.py {TRAINING}",
            "ggnet/models/detector.py": "tests/models/test_detector.py",
            "ggnet/models/checkpointing.py": "tests/models/test_checkpointing.py",
            "ggnet/models/sparse.py": "tests/models/test_sparse.py",
            "ggnet/models/releases.py": "tests/docs/test_weights_page.py",
            "ggnet/models/importers.py": "tests/models/test_importers.py",
            "ggnet/models/timm_backbone.py": "tests/models/test_timm_backbone.py",
            "ggnet/models/tiny.py": "tests/models/test_tiny.py tests/models/test_models.py",
            "ggnet/models/heads.py": "tests/models/test_models.py tests/models/test_sparse.py",
            "ggnet/models/*.py": "tests/models/test_models.py tests/models/test_importers.py "
            "tests/models/test_checkpointing.py",
            "ggnet/nn/loss.py": "tests/models/test_loss.py",
            "ggnet/nn/actpoint.py": "tests/models/test_modules.py",
            "ggnet/nn/deform.py": "tests/ops/test_deform_layers.py",
        }
    ),
}


def candidates(group: Group) -> list[Mutant]:
    """All mutants of a group, file by file."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True
    )
    found = []
    for path in listing.stdout.splitlines():
        if group.tests_of(path):
            make = mutations.of_python if path.endswith(".py") else mutations.of_tokens
            found += make(path, (ROOT / path).read_text())
    return found


def chosen(names: list[str], each: int, seed: int, only: str) -> list[tuple[str, Mutant]]:
    """(group, mutant): `each` of every group, the groups in turn; more begin with the same."""
    of_groups = []
    for name in names:
        mutants = [m for m in candidates(GROUPS[name]) if fnmatch.fnmatch(m.path, only)]
        random.Random(f"{seed} {name}").shuffle(mutants)
        of_groups.append([(name, mutant) for mutant in mutants[:each]])
    return [pair for row in zip_longest(*of_groups) for pair in row if pair is not None]


def copy_tree() -> None:
    """The tree as it is, with the compiled library, so that only what changes is built."""
    TREE.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    for name in [*filter(None, files), *BUILT]:
        source, target = ROOT / name, TREE / name
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.write_bytes(source.read_bytes())
    kernels = TREE / "ggnet/kernels"  # an installation has the folder there
    if not kernels.exists():
        kernels.symlink_to(TREE / "kernels")


def emulator_module() -> ModuleType:
    """tests/simt/emulator.py."""
    sys.path.insert(0, str(ROOT / "tests/simt"))
    return importlib.import_module("emulator")


def python(
    arguments: tuple[str, ...], environment: dict[str, str], seconds: float
) -> tuple[int | None, str]:
    """Exit status, None where time ran out, and the end of the output."""
    paths = [str(TREE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | environment
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if environment.get(VARIANT) == "asan":
        environment["LD_PRELOAD"] = emulator_module().preloaded()
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=TREE, env=environment, text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output[-2000:]
    return process.returncode, output[-2000:]


def outcome(
    group: Group, tests: list[str], seconds: float = BASE_SECONDS
) -> tuple[str, str, float]:
    """killed, survived or not compiled; what said so; the seconds of the slowest run of tests."""
    took = 0.0
    for environment in group.environments:
        if group.build:
            status, output = python(group.build, environment, BUILD_SECONDS)
            if status != 0:
                return "not compiled", output, took
        started = time.monotonic()
        status, output = python((*PYTEST, *tests), environment, seconds)
        if status not in (0, 1, 2, None) and status > 0:
            raise SystemExit(f"pytest ended with {status}:\n{output}")
        took = max(took, time.monotonic() - started)
        last = "time ran out" if status is None else (output.strip().splitlines() or [""])[-1]
        if status != 0:
            return "killed", last, took
    return "survived", last, took


def try_one(name: str, mutant: Mutant, seconds: float) -> dict:
    group, file = GROUPS[name], TREE / mutant.path
    original = file.read_text()
    started = time.monotonic()
    try:
        file.write_text(mutant.apply(original))
        result, said, _ = outcome(group, group.tests_of(mutant.path), seconds)
    finally:
        file.write_text(original)
        # The emulator has a folder for every text that was compiled.
        shutil.rmtree(TREE / "build/simt", ignore_errors=True)
    took = round(time.monotonic() - started, 1)
    return {"group": name, **asdict(mutant), "result": result, "said": said, "seconds": took}


def explanations() -> dict[tuple[str, str, str], str]:
    """(path, line, mutated line) -> why they compute the same."""
    entries = json.loads(EQUIVALENT.read_text())
    return {(e["path"], e["before"], e["after"]): e["why"] for e in entries}


def identity(mutant: Mutant | dict) -> tuple[str, str, str]:
    values = asdict(mutant) if isinstance(mutant, Mutant) else mutant
    return values["path"], values["before"].strip(), values["after"].strip()


def report(rows: list[dict]) -> bool:
    """Print kill rates and survivors; whether there is none."""
    equivalent = explanations()
    for row in rows:
        if row["result"] == "survived" and identity(row) in equivalent:
            row["result"] = "equivalent"
    print(f"\n{'group':<8} {'mutants':>8} {'killed':>7} {'survived':>9} {'equivalent':>11} "
          f"{'not compiled':>13} {'kill rate':>10}")  # fmt: skip
    for name in [*GROUPS, "all"]:
        counts = Counter(row["result"] for row in rows if name in (row["group"], "all"))
        killed, survived = counts["killed"], counts["survived"]
        if counts:
            print(f"{name:<8} {counts.total():>8} {killed:>7} {survived:>9} "
                  f"{counts['equivalent']:>11} {counts['not compiled']:>13} "
                  f"{100 * killed / max(killed + survived, 1):>8.1f} %")  # fmt: skip
    survivors = [row for row in rows if row["result"] == "survived"]
    for row in survivors:
        print(f"\n{row['path']}:{row['line']} ({row['rule']})\n- {row['before'].strip()}\n"
              f"+ {row['after'].strip()}")  # fmt: skip
    return not survivors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=30, help="mutants of a group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--group", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--only", default="*", help="pattern of the files to mutate")
    parser.add_argument("--report", action="store_true", help="of what has been run, nothing more")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    RESULTS.touch()
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    if not args.report:
        copy_tree()
        done = {(row["group"], row["line"], *identity(row)) for row in rows}
        equivalent, limits = explanations(), {}
        mutants = chosen(args.group, args.each, args.seed, args.only)
        for number, (name, mutant) in enumerate(mutants, start=1):
            if (name, mutant.line, *identity(mutant)) in done or identity(mutant) in equivalent:
                continue
            tests = (name, *GROUPS[name].tests_of(mutant.path))
            if tests not in limits:
                result, said, took = outcome(GROUPS[name], list(tests[1:]))
                if result != "survived":
                    raise SystemExit(f"{' '.join(tests)}: {result} without a change:\n{said}")
                limits[tests] = 60 + PATIENCE * took
            row = try_one(name, mutant, limits[tests])
            rows.append(row)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(f"{number}/{len(mutants)} {row['result']}, {row['seconds']} s: {name} "
                  f"{mutant.path}:{mutant.line} {mutant.rule}", flush=True)  # fmt: skip
    return 0 if report(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())

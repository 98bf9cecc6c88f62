"""The checker is checked: each planted bug is found, and no clean kernel is accused."""

import os
import subprocess
import sys
from pathlib import Path

import emulator
import numpy as np
import pytest

# Bug: the variant that finds it, how to run, and what it says ("wrong result": the output differs).
FOUND = {
    "missing_barrier": ("plain", {}, "wrong result"),
    "diverged_barriers": ("plain", {}, "different __syncthreads"),
    "absent_lane": ("plain", {}, "lane"),
    "uninitialized_shared": ("plain", {}, "wrong result"),
    "misaligned_vector": ("plain", {}, "no multiple of 16"),
    "missing_async_wait": ("plain", {}, "wrong result"),
    "early_refill": ("plain", {"async_early": True}, "wrong result"),
    "lane_order": ("plain", {}, "wrong result"),
    "too_much_shared": ("plain", {}, "shared memory; the limit"),
    # Of a static array UBSan knows the bounds, and speaks first.
    "shared_out_of_bounds": ("asan", {}, "index 64 out of bounds"),
    "dynamic_shared_out_of_bounds": ("asan", {}, "AddressSanitizer"),
    "global_out_of_bounds": ("asan", {}, "AddressSanitizer"),
    "cross_block_race": ("traced", {}, "data race"),
}
ALSO = {  # the traced variant finds these whatever the order of execution
    "missing_barrier": "data race",
    "lane_order": "data race",
    "early_refill": "data race",
}


def launch(simt, name, bug, **options):
    """Output of a planted kernel on 0..63; the input array ends where its memory does."""
    simt.configure(**options)
    source = np.arange(64, dtype=np.float32)
    out = np.zeros(64, np.float32)
    simt.planted(name, bug, source, out)
    return out


def check(simt, variant):
    """Run every planted kernel of a variant; returns one line for each disagreement."""
    wrong = []
    for name, (finder, options, says) in FOUND.items():
        if variant == "traced" and name in ALSO:
            finder, says = "traced", ALSO[name]
        for how in ({}, {"order": "reverse"}, {"order": "shuffled", "seed": 7}):
            try:
                clean = launch(simt, name, False, **options, **how)
            except RuntimeError as error:
                wrong.append(f"{name}: the clean kernel is accused: {error}")
        if finder != variant or finder == "asan":
            continue
        try:
            out = launch(simt, name, True, **options)
            if says != "wrong result" or np.array_equal(out, clean):
                wrong.append(f"{name}: the bug went unnoticed")
        except RuntimeError as error:
            if says not in str(error):
                wrong.append(f"{name}: expected '{says}', got '{error}'")
    return wrong


def in_process(variant, code):
    """Run code with the variant's module in a process of its own (the sanitizer ends it)."""
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parent), OPENBLAS_NUM_THREADS="1")
    if variant == "asan":
        # Python itself leaks by the sanitizer's measure.
        environment |= {"LD_PRELOAD": emulator.preloaded(), "ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def test_plain_run_finds_its_bugs(simt):
    assert check(simt, "plain") == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["traced", "asan"])
def test_instrumented_runs_find_their_bugs(simt, variant):
    emulator.build(variant)
    code = (
        "import emulator, test_planted_bugs as t\n"
        f"print(t.check(emulator.load('{variant}'), '{variant}'))"
    )
    done = in_process(variant, code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, (variant, _, _) in FOUND.items() if variant == "asan"])
def test_sanitizer_finds(simt, name):
    emulator.build("asan")
    code = (
        "import emulator, test_planted_bugs as t\n"
        f"t.launch(emulator.load('asan'), '{name}', True)\nprint('survived')"
    )
    done = in_process("asan", code)
    assert FOUND[name][2] in done.stderr
    assert "survived" not in done.stdout

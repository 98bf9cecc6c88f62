"""No operator touches memory beyond its operands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from op_testing import isas

CALLS = Path(__file__).parent / "guarded_calls.py"


@pytest.mark.parametrize("isa", isas())
def test_operands_at_the_edge_of_forbidden_memory(isa):
    paths = [str(CALLS.parent), str(CALLS.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"GGNET_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(paths)}
    finished = subprocess.run(
        [sys.executable, CALLS], env=environment, capture_output=True, text=True
    )
    called = finished.stdout.splitlines()[-1:]
    assert finished.returncode == 0, f"{called}: {finished.returncode}\n{finished.stderr}"

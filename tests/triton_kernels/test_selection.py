"""The interpreter's selection of the shared tests names tests that exist."""

import re
import subprocess
import sys
from pathlib import Path

import interpreted


def test_every_pattern_finds_a_test():
    """A renamed test would leave the selection unseen."""
    folder = Path(__file__).parents[1] / "ops"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow or not slow"]
    listing = subprocess.run([*command, folder], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"(\w+)\.py::(.+)", listing)
    assert names
    for module, patterns in interpreted.RUN.items():
        for pattern in patterns:
            assert any(m == module and re.match(pattern, name) for m, name in names), pattern

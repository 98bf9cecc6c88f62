"""The interpreter's selection of the shared tests names cases that exist."""

import json
import subprocess
import sys
from pathlib import Path

LIST = """
import json, sys
import pytest

class Plugin:
    def pytest_collection_finish(self, session):
        self.items = session.items

plugin = Plugin()
options = ["--collect-only", "-qq", "-p", "no:cacheprovider", "-m", "slow or not slow"]
pytest.main([*options, sys.argv[1]], plugins=[plugin])
from conftest import matches

found = {}  # a marked test's case -> whether there is such a test
for item in plugin.items:
    mark = item.get_closest_marker("interpreted")
    for case in mark.args if mark else ():
        name = f"{item.originalname} {case}"
        found[name] = found.get(name, False) or matches(item, case)
print("FOUND " + json.dumps(found))
"""


def test_every_case_of_a_mark_is_one_of_the_tests():
    """A changed parameter would leave the selection unseen."""
    folder = Path(__file__).parents[1] / "ops"
    command = [sys.executable, "-c", LIST, str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.rpartition("FOUND ")[2])
    assert len(found) > 10
    assert all(found.values()), [name for name, there in found.items() if not there]

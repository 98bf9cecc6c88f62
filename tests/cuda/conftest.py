"""Where the library was built without CUDA, everything here is skipped."""

import sys
from pathlib import Path

import pytest

from ggnet._build import read_build_info
from ggnet.ops import _library

sys.path.insert(0, str(Path(__file__).parents[1] / "simt"))  # the emulator knows the launches


def pytest_collection_modifyitems(items):
    if read_build_info(_library.FOLDER)["cuda"] is not None:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason="built without CUDA: make test-cuda-build"))

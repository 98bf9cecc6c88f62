import os
import sys
from pathlib import Path

import pytest
from op_testing import threads

TRITON = os.environ.get("GGNET_BACKEND") == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(items):
    if TRITON:
        sys.path.insert(0, str(Path(__file__).parents[1] / "triton_kernels"))
        import interpreted

        here = Path(__file__).parent
        interpreted.choose([item for item in items if item.path.parent == here])


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors here are tiny; tests of threading choose their own number."""
    with threads(1):
        yield

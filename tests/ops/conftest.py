"""The operators' tests; under Triton's interpreter those that are marked for it.

It takes milliseconds for every instruction of every program, hence a selection: each operator,
type, option and edge, on the smallest shape that shows it. `@pytest.mark.interpreted` stands at a
test's definition, alone for all of its cases, or with those it names: dicts of parameters.
"""

import os
from pathlib import Path

import pytest
from op_testing import threads

TRITON = os.environ.get("GGNET_BACKEND") == "triton" and os.environ.get("TRITON_INTERPRET") == "1"


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "interpreted(*cases): an operator test that Triton's interpreter runs, too"
    )


def pytest_collection_modifyitems(items):
    if not TRITON:
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and not is_interpreted(item):
            item.add_marker(pytest.mark.skip(reason="not of the interpreter's selection"))


def is_interpreted(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("interpreted")
    if mark is None:
        return False
    return not mark.args or any(matches(item, case) for case in mark.args)


def matches(item: pytest.Item, case: dict) -> bool:
    return all(item.callspec.params[name] == value for name, value in case.items())


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors here are tiny; tests of threading choose their own number."""
    with threads(1):
        yield

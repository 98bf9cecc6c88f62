import pytest
from op_testing import threads


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors here are tiny; tests of threading choose their own number."""
    with threads(1):
        yield

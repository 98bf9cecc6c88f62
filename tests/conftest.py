"""Where the real annotations are, if they are."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared():
    """The folder of real annotations and photos beside the repository."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real annotations at {folder}")
    return folder

"""The emulator's module, in the variant that GGNET_SIMT_VARIANT names (plain unless said)."""

import os

import emulator
import pytest


@pytest.fixture(scope="session")
def simt():
    variant = os.environ.get("GGNET_SIMT_VARIANT", "plain")
    try:
        return emulator.load(variant)
    except emulator.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def default_run(request):
    """Each test starts from the default way of running."""
    if "simt" in request.fixturenames:
        request.getfixturevalue("simt").configure(workers=2)

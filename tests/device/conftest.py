"""Tests that want a GPU; GGNET_TEST_DEVICE=cpu runs them without one, to try the tests."""

import os

import pytest
import torch

DEVICE = os.environ.get("GGNET_TEST_DEVICE", "cuda")


@pytest.fixture(scope="session")
def device():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device(DEVICE)


def _backends():
    return ["cpu"] if DEVICE == "cpu" else ["cuda", "triton"]


@pytest.fixture(params=_backends())
def backend(request, device):
    from ggnet.ops import use_backend

    with use_backend(request.param):
        yield request.param

"""Published networks on torchvision's operator, with and without the replacement.

Skipped where torchvision is not installed.
"""

import sys
from pathlib import Path

import pytest
import torch
from tolerances import DEFORMABLE_NETWORK

from ggnet import ops
from ggnet.ops import _torchvision

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench/ is not installed

try:
    from bench.deformable import NETWORKS
except (ImportError, RuntimeError) as error:  # the latter: torchvision is for another torch
    pytest.skip(f"torchvision does not import: {error}", allow_module_level=True)


def step(network, inputs):
    """The output of a network, and the gradients of its parameters and inputs."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    network.zero_grad()
    output = network(*leaves)
    output.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    return (
        {"output": output.detach()}
        | gradients
        | {f"input {i}": x.grad for i, x in enumerate(leaves)}
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_network_forward_and_backward(name, monkeypatch):
    calls = []
    checked = _torchvision.checked
    monkeypatch.setattr(
        _torchvision, "checked", lambda op, *rest: (calls.append(op), checked(op, *rest))[1]
    )
    torch.manual_seed(0)
    network, inputs = NETWORKS[name].prepare(small=True, batch=2)
    for dtype, bound in ((torch.float64, 1e-9), (torch.float32, DEFORMABLE_NETWORK)):
        network, inputs = network.to(dtype), [x.to(dtype) for x in inputs]
        expected = step(network, inputs)
        assert not calls
        with ops.replace_torchvision(strict=True):
            actual = step(network, inputs)
        layers = calls.count("deform_conv2d")
        assert layers == calls.count("deform_conv2d_backward") > 0
        calls.clear()
        largest = max(value.abs().max() for value in expected.values())
        for what, value in expected.items():
            # What is before a BatchNorm has gradients that cancel to nothing but rounding.
            scale = value.abs().max().clamp(min=1e-3 * largest)
            error = ((actual[what] - value).abs().max() / scale).item()
            assert error < bound, f"{what}: {error}"

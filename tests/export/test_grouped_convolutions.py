"""Groups and offset groups of deform_conv2d in formats that have the operator under other names."""

from importlib.util import find_spec

import pytest
import torch

from ggnet import ops
from ggnet.export import EXPORTERS
from ggnet.export.program import OUTPUTS


class Network(torch.nn.Module):
    """As many outputs as a trained network has."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.offset = torch.nn.Parameter(torch.randn(1, 36, 6, 5))
        self.mask = torch.nn.Parameter(torch.rand(1, 18, 6, 5))
        self.weight = torch.nn.Parameter(torch.randn(6, 2, 3, 3))
        self.bias = torch.nn.Parameter(torch.randn(6))

    def forward(self, images):
        offset, mask = self.offset * 1, self.mask * 1
        found = ops.deform_conv2d(images, offset, self.weight, self.bias, padding=1, mask=mask)
        return tuple(found + i for i in range(len(OUTPUTS)))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_groups(tmp_path, name):
    exporter = EXPORTERS[name]
    missing = [package for package in exporter.packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    network, images = Network(), torch.randn(1, 4, 6, 5)
    path = tmp_path / f"network{exporter.suffix}"
    with torch.no_grad():
        exporter.write(torch.export.export(network, (images,)), path)
        expected = network(images)
    for one, other in zip(exporter.load(path)(images.numpy()), expected, strict=True):
        assert torch.allclose(torch.from_numpy(one), other, rtol=1e-4, atol=1e-5)

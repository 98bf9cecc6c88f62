import pytest
import torch
from tolerances import NETWORK

from ggnet import reference
from ggnet.nn import ActPointAggregate


@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("relu", [False, True])
def test_actpoint_aggregate_equals_its_definition(size, relu):
    torch.manual_seed(0)
    layer = ActPointAggregate(6, 4, size, relu=relu)
    torch.nn.init.normal_(layer.bias)
    features = torch.randn(2, 6, 7, 9)
    points = torch.randn(2, 3 * size**2, 7, 9)
    base = torch.randn(2, 2 * size**2, 7, 9)
    expected = reference.actpoint_aggregate(
        features, points, layer.weight, layer.bias, base, relu=relu
    )
    torch.testing.assert_close(layer(features, points, base), expected, **NETWORK)


def test_actpoint_aggregate_starts_as_published():
    layer = ActPointAggregate(16, 64, 5)
    bound = 1 / (16 * 25) ** 0.5
    assert 0.99 * bound < layer.weight.max() <= bound
    assert -bound <= layer.weight.min() < -0.99 * bound
    assert not layer.bias.any()

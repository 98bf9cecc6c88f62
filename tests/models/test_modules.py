import pytest
import torch
from tolerances import NETWORK

from ggnet import reference
from ggnet.nn import ActPointAggregate, DeformConv2d


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
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert not layer.bias.any()


@pytest.mark.parametrize("geometry", [(3, 1, 1, 1), (3, 2, 1, 1), (5, 1, 4, 2)])
def test_deform_conv_starts_as_half_a_convolution(geometry):
    torch.manual_seed(0)
    size, stride, padding, dilation = geometry
    layer = DeformConv2d(6, 4, size, stride, padding, dilation)
    x = torch.randn(2, 6, 8, 8)
    expected = torch.nn.functional.conv2d(x, layer.weight / 2, None, stride, padding, dilation)
    torch.testing.assert_close(layer(x), expected, **NETWORK)


@pytest.mark.parametrize("bias", [False, True])
def test_deform_conv_of_a_rectangle_with_or_without_bias(bias):
    torch.manual_seed(0)
    geometry = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    layer = DeformConv2d(6, 4, (3, 5), **geometry, bias=bias)
    assert (layer.bias is not None) == ("bias" in layer.state_dict()) == bias
    torch.nn.init.normal_(layer.points.weight, std=0.1)
    if bias:
        torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 6, 9, 11)
    offset, logits = layer.points(x).split([30, 15], dim=1)
    expected = reference.deform_conv2d(
        x, offset, layer.weight, layer.bias, **geometry, mask=logits.sigmoid()
    )
    assert expected.shape == (2, 4, 5, 7)
    torch.testing.assert_close(layer(x), expected, **NETWORK)

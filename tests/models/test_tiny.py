"""The small backbone against its definition, written down anew."""

import torch
import torch.nn.functional as F
from torch import nn

from ggnet.models.tiny import Tiny


def test_it_computes_what_its_weights_say():
    """Trained weights keep their meaning from version to version."""
    torch.manual_seed(0)
    model = Tiny(width=16).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    values = model.state_dict()

    def convolve(x, layer, number, stride=1):
        """And normalize; the two follow one another in `layer`."""
        weight, norm = values[f"{layer}.{number}.weight"], f"{layer}.{number + 1}"
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, variance = (values[f"{norm}.running_{name}"] for name in ("mean", "var"))
        x = (x - mean[:, None, None]) / (variance + 1e-5).sqrt()[:, None, None]
        return x * values[f"{norm}.weight"][:, None, None] + values[f"{norm}.bias"][:, None, None]

    def residual(x, layer, stride):
        inner = convolve(x, f"{layer}.body", 0, stride).relu()
        projected = f"{layer}.skip.0.weight" in values
        skip = convolve(x, f"{layer}.skip", 0, stride) if projected else x
        return (convolve(inner, f"{layer}.body", 3) + skip).relu()

    images = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    fine = convolve(images, "fine.0", 0, stride=2).relu()
    fine = residual(residual(fine, "fine.1", 2), "fine.2", 1)
    coarse = residual(fine, "coarse.0", 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = convolve(fine + coarse, "merge", 0).relu()
    (features,) = model(images)
    torch.testing.assert_close(features, expected, rtol=1e-12, atol=1e-12)

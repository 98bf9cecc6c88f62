"""Runs installed operators and compares them with their definition: run.py PREFIX, outside of the
checkout; what is imported must lie under PREFIX."""

import sys
from pathlib import Path

import torch

from ggnet import kernels, ops, reference  # noqa: F401

assert Path(ops.__file__).is_relative_to(sys.argv[1]), ops.__file__
torch.manual_seed(0)
logits = torch.randn(2, 3, 8, 8, requires_grad=True)
target = torch.rand(2, 3, 8, 8)
loss = ops.hna_loss(logits, target)
loss.backward()
torch.testing.assert_close(loss, reference.hna_loss(logits, target))
assert logits.grad.abs().sum() > 0

x, weight = torch.randn(2, 8, 9, 11), torch.randn(4, 8, 3, 3)
offset, mask = torch.randn(2, 18, 9, 11), torch.rand(2, 9, 9, 11)
given = {"padding": 1, "mask": mask}
torch.testing.assert_close(
    ops.deform_conv2d(x, offset, weight, **given),
    reference.deform_conv2d(x, offset, weight, **given),
    rtol=1e-4,
    atol=1e-4,
)
print(f"   torch {torch.__version__}: {ops.LIBRARY}")

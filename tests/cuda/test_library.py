"""The compiled library of a machine with nvcc: complete, and chosen for CUDA tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ggnet import ops
from ggnet.ops._operators import SCHEMAS


@pytest.mark.parametrize("name", [name for names in SCHEMAS.values() for name in names])
def test_every_operator_has_a_cuda_kernel(name):
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ggnet::{name}", "CUDA")


@pytest.mark.parametrize("op", ops.OPERATORS)
def test_cuda_tensors_get_the_compiled_kernel(op):
    with FakeTensorMode():
        tensor = torch.empty(1, device="cuda")
    resolution = ops.resolve(op, tensor)
    assert resolution.backend == "cuda"
    assert resolution.rejected["triton"]


def test_the_cpu_kernels_are_there_as_well():
    logits = torch.randn(1, 2, 8, 8)
    scores, *_ = ops.topk_peaks(logits, 4)
    assert scores[0, 0] == logits.max().sigmoid()

"""Storage in half precision: every value is read as it is and rounded once, as torch rounds."""

import os

import pytest
import torch
from op_testing import isas

from ggnet import ops, reference

HALVES = (torch.float16, torch.bfloat16)
FACTORS = torch.tensor([1.0, -1.0, 1.01, 0.7, 3.3e-5, 1.9e-8, 250.0, -50000.0, 1e-3])


@pytest.fixture(params=isas(), autouse=True)
def isa(request, monkeypatch):
    monkeypatch.setenv("GGNET_CPU_ISA", request.param)


def every_value(dtype):
    """(1, 1, 256, 256): every finite value; zeros for the others."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    return bits.view(dtype).nan_to_num(0, 0, 0).view(1, 1, 256, 256)


def factors(dtype, count):
    return (FACTORS.repeat(count)[:count] * torch.linspace(1, 1.3, count)).to(dtype)


def scale(input, weight):
    """A deformable convolution that does nothing but multiply: the product of two halves is exact
    in float32, so there is one right answer."""
    offset = torch.zeros(input.shape[0], 2, *input.shape[2:], dtype=input.dtype)
    return ops.deform_conv2d(input, offset, weight)


def assert_equal(got, exact, values):
    """But products of bfloat16 pairs take what float32 has no normal numbers for as zero."""
    wrong = got != exact
    if os.environ["GGNET_CPU_ISA"] in ("avx512_bf16", "amx_bf16"):
        smallest = torch.finfo(torch.float32).smallest_normal
        vanishing = (values.float().abs() < smallest) | (exact.float().abs() <= smallest)
        wrong &= ~vanishing | (got != 0)
    assert not wrong.any(), (got[wrong][:5], exact[wrong][:5])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_results_are_rounded_once(dtype, layout):
    values, weight = every_value(dtype), factors(dtype, 19)
    exact = (values.float() * weight.float()[:, None, None]).to(dtype)
    got = scale(values.contiguous(memory_format=layout), weight.view(19, 1, 1, 1))
    assert_equal(got, exact, values)  # infinities included


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gradients_are_rounded_once(dtype):
    weight = factors(dtype, 19)
    input = torch.zeros(1, 19, 256, 256, dtype=dtype, requires_grad=True)
    grad = every_value(dtype)
    # An infinite product would be NaN in the neighbors, which have no share of it.
    grad = torch.where(grad.float().abs() < torch.finfo(dtype).max / 1e5, grad, 0)
    scale(input, weight.view(1, 19, 1, 1)).backward(grad)
    assert_equal(input.grad, (grad.float() * weight.float()[:, None, None]).to(dtype), grad)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_is_no_number_stays_what_it_is(dtype):
    special = torch.tensor([torch.inf, -torch.inf, torch.nan], dtype=dtype).view(3, 1, 1, 1)
    got = scale(special, torch.ones(1, 1, 1, 1, dtype=dtype))
    assert torch.equal(got[:2], special[:2])
    assert got[2].isnan().all()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_value_has_its_place_among_the_peaks(dtype, layout):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    shuffled = bits[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))]
    logits = shuffled.view(dtype).view(1, 4, 128, 128).contiguous(memory_format=layout)
    got, want = (module.topk_peaks(logits, 2**16, 1) for module in (ops, reference))
    for mine, theirs in zip(got[1:], want[1:], strict=True):
        assert torch.equal(mine, theirs)

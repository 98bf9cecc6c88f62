"""Tensors of several types and shapes come to the host whole."""

import numpy as np
import pytest
import torch

from ggnet.engine import host

TENSORS = (
    torch.arange(3, dtype=torch.uint8),
    torch.randn(2, 3, 5)[:, ::2],
    torch.arange(6).reshape(2, 3),
    torch.randn(4).half(),
    torch.zeros(2, 0),
    torch.tensor([True, False, True]),
    torch.randn(3, 2, dtype=torch.float64).T,
    torch.tensor(7.5),
)


def assert_same(arrays):
    for array, tensor in zip(arrays, TENSORS, strict=True):
        assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())
        assert array.flags.aligned


def test_packed_and_unpacked_they_are_the_same():
    packed = host.pack(TENSORS)
    assert packed.numel() == sum(tensor.nbytes for tensor in TENSORS)
    assert_same(host.unpack(packed, TENSORS))


def test_the_cpus_are_not_copied():
    arrays = host.to_host(TENSORS)
    assert_same(arrays)
    assert arrays[1].base is not None
    assert arrays[1].__array_interface__["data"][0] == TENSORS[1].data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_from_a_gpu():
    assert_same(host.to_host([tensor.cuda() for tensor in TENSORS]))

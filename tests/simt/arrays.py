"""Arrays that the emulator's module takes and tensors that the references take."""

import os

import numpy as np
import torch

TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

INSTRUMENTED = os.environ.get("GGNET_SIMT_VARIANT", "plain") != "plain"
SIDE = 3 if INSTRUMENTED else 5  # of the kernel of the largest cases: instrumented ones are slow
# Ways to run that hardware leaves open; the first is the default. Tracing sees all races in one.
ORDERS = [
    {},
    {"order": "reverse"},
    {"order": "shuffled", "seed": 3, "async_early": True},
][2 if INSTRUMENTED else 0 :]


def to_array(tensor, dtype):
    """C-contiguous; bfloat16 as its bits."""
    tensor = tensor.to(TYPES[dtype]).contiguous()
    return (
        tensor.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else tensor.numpy()
    )


def from_array(array, dtype):
    """In float64."""
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).double()
    return torch.from_numpy(array).double()


def garbage(shape, dtype):
    """Memory that nobody has written: NaN, so that a missing write is seen.

    Torch's, because it begins at a whole sector as a device's memory does; NumPy's need not.
    """
    return to_array(torch.full(shape, float("nan")), dtype)


def rounded(tensor, dtype):
    """What the type keeps of the values, in float64."""
    return tensor.to(TYPES[dtype]).double()

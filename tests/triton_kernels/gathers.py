"""How often each deformable kernel gathers a sample, counted by Triton's interpreter.

TRITON_INTERPRET must be set before Triton is imported, hence a process of its own:
    TRITON_INTERPRET=1 python tests/triton_kernels/gathers.py
prints the counts, and `counted()` runs that.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import torch

CHANNELS, OUTPUTS, SIDE, CELLS = 32, 256, 3, 4  # all outputs of GGNet in one program


def counted() -> dict[str, float]:
    """Kernel -> loads of the features by corners, channels and points of all pixels."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, __file__]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def main() -> None:
    """Print the counts as JSON."""
    from ggnet import kernels

    kernels.load()
    from ggnet.kernels import deform_backward, deform_forward

    pixels, taps = CELLS**2, SIDE**2
    features = torch.randn(1, CHANNELS, CELLS, CELLS).to(memory_format=torch.channels_last)
    grid = torch.cartesian_prod(torch.arange(CELLS), torch.arange(CELLS)).view(CELLS, CELLS, 2)
    steps = (1, 1, SIDE // 2, SIDE // 2, 1, 1)
    # Offsets that lead every point of every pixel between the four cells of the middle.
    corner = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)) - SIDE // 2
    offset = (CELLS / 2 - 0.5) - grid[:, :, None] - corner
    offset = offset.flatten(2).permute(2, 0, 1)[None].contiguous()
    weight = torch.randn(OUTPUTS, CHANNELS, SIDE, SIDE)
    grad = torch.randn(1, OUTPUTS, CELLS, CELLS)

    def backward(*wanted: bool) -> None:
        tensors = (grad, features, offset, None, None, weight)
        deform_backward.backward(*tensors, steps, False, wanted, False, False)

    runs = {
        "forward_kernel": lambda: deform_forward.forward(
            features, offset, None, None, weight, None, steps, False, False, False
        ),
        "backward_kernel": lambda: backward(True, True, False, False),
        "weight_grad_kernel": lambda: backward(False, False, True, False),
    }
    once = 4 * CHANNELS * pixels * taps
    print(json.dumps({name: _loads(run, features) / once for name, run in runs.items()}))


def _loads(run: Callable[[], object], tensor: torch.Tensor) -> int:
    """Elements of the tensor that a run loads."""
    from triton.runtime.interpreter import InterpreterBuilder

    first = tensor.data_ptr()
    last = first + tensor.nbytes
    load = InterpreterBuilder.create_masked_load
    count = 0

    def counting(self, pointers, mask, *rest):
        nonlocal count
        count += int(((pointers.data >= first) & (pointers.data < last) & mask.data).sum())
        return load(self, pointers, mask, *rest)

    with mock.patch.object(InterpreterBuilder, "create_masked_load", counting):
        run()
    return count


if __name__ == "__main__":
    main()

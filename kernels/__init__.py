"""Triton alternatives of the CUDA kernels, one file an operator; installed as `ggnet.kernels`.

`load()` registers them. ggnet.ops does so when it first chooses Triton; call it before loading an
exported program that was captured with them.
"""

import importlib


def load() -> str:
    """Register the Triton operators, and return their namespace in torch.ops.

    Raises:
        ImportError: triton is not installed.
    """
    from ggnet.ops import OPERATORS

    for op in OPERATORS:
        importlib.import_module(f"ggnet.kernels.{op}")
    return "ggnet_triton"

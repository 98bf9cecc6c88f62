"""What the Triton operators share: registration, launches, tuning, classes of sizes.

Every operator has the name and the schema of the compiled one, in the namespace `ggnet_triton`.
torch.compile and torch.export see through them to the kernels.
"""

from collections.abc import Callable, Sequence

import torch
import triton
from torch import Tensor

NAMESPACE = "ggnet_triton"
INTERPRET: bool = triton.knobs.runtime.interpret  # TRITON_INTERPRET=1: kernels run on the CPU


def operator(name: str, mutates: Sequence[str] = ()) -> Callable:
    """Register a function as the Triton implementation of the operator `ggnet::name`."""
    compiled = str(getattr(torch.ops.ggnet, name).default._schema)
    schema = compiled[compiled.index("(") :]
    return torch.library.triton_op(f"{NAMESPACE}::{name}", mutates_args=mutates, schema=schema)


# Under this name torch finds the kernels of an operator, whose text is part of its cache keys.
def wrap_triton(kernel):
    """The kernel, visible to torch.compile and torch.export."""
    return kernel if INTERPRET else torch.library.wrap_triton(kernel)


def tuned(configs: Sequence[triton.Config], **arguments) -> Callable:
    """Choose among `configs` by time, once for each dtype and value of the `key` arguments.

    Triton keeps the choice in its cache folder (TRITON_CACHE_DIR), written atomically, so that a
    machine measures once. The interpreter takes the first configuration.
    """
    return triton.autotune(
        configs=list(configs[:1] if INTERPRET else configs), cache_results=True, **arguments
    )


def size_class(count: int) -> int:
    """0, 1, 2: too little work to fill a GPU, some waves of it, many."""
    return 0 if count <= 1 << 13 else 1 if count <= 1 << 17 else 2


def float32_precision(tf32: bool) -> str:
    """How tl.dot multiplies float32: in TF32, or with float32's accuracy.

    Three TF32 products (error below 2^-21) keep float32 on the tensor cores of NVIDIA's devices;
    AMD's multiply float32 itself.
    """
    if tf32:
        return "tf32"
    return "ieee" if torch.version.hip else "tf32x3"


def channels_adjacent(tensor: Tensor) -> Tensor:
    """(B, C, H, W) as a dense (B, H, W, C); a copy only if it is not channels_last."""
    return tensor.permute(0, 2, 3, 1).contiguous()

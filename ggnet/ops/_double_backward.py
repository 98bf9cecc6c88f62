"""What differentiating a derivative says."""

import torch


def refuse_double_backward(namespace: str, op: str) -> None:
    """Make the second derivative of `op` raise, and name what can compute it."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"ggnet.ops.{op} is differentiable once; for second derivatives call "
            f"ggnet.reference.{op}, which plain autograd differentiates"
        )

    torch.library.register_autograd(f"{namespace}::{op}_backward", backward)

"""What differentiating the operator of a derivative says."""

import torch


def refuse_double_backward(namespace: str, op: str, derivative: str) -> None:
    """Make differentiating the operator `derivative` of `op` raise, and name what to call."""

    def backward(ctx, *grads):
        raise RuntimeError(
            f"torch.ops.{namespace}.{derivative} is not differentiable; for second derivatives "
            f"differentiate ggnet.ops.{op} with create_graph=True"
        )

    torch.library.register_autograd(f"{namespace}::{derivative}", backward)

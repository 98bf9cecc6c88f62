"""How the network runs in training: what `train.execution` names beside plain calls."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ggnet.models import GGNet


def compile_training(model: GGNet) -> None:
    """Have the training passes of backbone and heads compiled by torch.compile.

    Evaluation, whose images may have many sizes, runs as before. Copies of the model that were
    made before stay as they are.
    """
    for part in (model.backbone, *model.heads):
        plain, compiled = part.forward, torch.compile(part.forward)
        part.forward = _forward_of(part, plain, compiled)


def _forward_of(part: nn.Module, plain: Callable, compiled: Callable) -> Callable:
    def forward(*inputs: Any) -> Any:
        return (compiled if part.training else plain)(*inputs)

    return forward


def capture_training(model: GGNet, images: Tensor, dtype: torch.dtype | None) -> None:
    """Have the network's training pass run as two CUDA graphs, its forward and its backward.

    Evaluation runs as before. The passes that capturing takes leave no trace: weights, statistics
    and gradients are what they were. Gradients lie where the next backward pass writes.

    Args:
        model: draws no random numbers, as those of capturing would be missing from the sequence.
        images: as in every later training step: (B, 3, H, W) of this size on this CUDA device.
        dtype: of autocast, or None without.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # What autocast's cache keeps would belong to the graph.
    with torch.autocast("cuda", dtype, enabled=dtype is not None, cache_enabled=False):
        torch.cuda.make_graphed_callables(model, (images,))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])

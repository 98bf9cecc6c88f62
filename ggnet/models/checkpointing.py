"""Memory for time: what the backward pass computes again instead of finding it stored."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """A module that can forget what its parts computed on the way (Chen et al., 2016).

    Losses and gradients stay the same bits, and statistics are updated once. Without
    `checkpointing`, and in evaluation mode, a part is simply called.
    """

    checkpointing: bool = False
    random: bool = False  # whether a part draws random numbers, such as dropout's

    def part(self, function: Callable, *inputs: Any) -> Any:
        """function(*inputs), of which training keeps nothing but the inputs and the result.

        Args:
            function: a part of this module, or a method.
        """
        if not (self.checkpointing and self.training):
            return function(*inputs)
        return checkpoint(
            function,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=self.random,
            context_fn=lambda: (nullcontext(), _fixed_statistics(self)),
        )


def set_checkpointing(module: nn.Module) -> None:
    """Let everything in `module` that can recompute its parts do so."""
    for part in module.modules():
        if isinstance(part, Recomputing):
            part.checkpointing = True


@contextmanager
def _fixed_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorms compute as before, but the batch does not count a second time."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count

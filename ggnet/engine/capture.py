"""A GPU's work of one call as one launch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_WARM_UP = 3  # calls in which libraries choose their algorithms and take their memory


class Captured:
    """A function of one CUDA tensor as a CUDA graph, one for each shape and dtype.

    Results are overwritten by the next call of the same shape: copy them first. The function must
    not wait for the device, and autocast's cache must be off within it, since what that keeps would
    belong to the graph.
    """

    def __init__(self, function: Callable[[Tensor], Any]):
        self.function = function
        self._graphs: dict[tuple, tuple[torch.cuda.CUDAGraph, Tensor, Any]] = {}

    def __call__(self, tensor: Tensor) -> Any:
        """The function's result for the tensor."""
        key = tensor.shape, tensor.dtype, tensor.stride()
        if key not in self._graphs:
            self._graphs[key] = self._capture(tensor)
        graph, static, results = self._graphs[key]
        static.copy_(tensor)
        graph.replay()
        return results

    def _capture(self, tensor: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Any]:
        static = tensor.clone()
        side = torch.cuda.Stream(tensor.device)
        side.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self.function(static)
        torch.cuda.current_stream(tensor.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self.function(static)
        return graph, static, results

"""The whole way from images to triplets as one module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ggnet.ops import decode_hoi
from ggnet.triplets import Detections, Triplets

MAPS = ("heatmap", "size", "center_frac", "interaction", "human_offset", "object_offset")


class Detector(nn.Module):
    """A network and the decoding of its maps.

    Shapes depend on those of the images alone and nothing waits for the device, so that
    torch.export can export it and a CUDA graph can capture it.

    Args:
        network: a `ggnet.models.GGNet`, or what gives the same outputs in evaluation mode.
        valid_pairs: (V, num_objects) bool: which verb goes with which object; moves with the
            module and is not part of its state dict.
        k, rule, allow_same: see `ggnet.ops.decode_hoi`.
        verb_exponent: power of the verb's score in a triplet's.

    Example:
        >>> network = build_model(ModelConfig(), num_objects=3, num_verbs=2)
        >>> detector = Detector(network, np.ones((2, 3), bool)).eval()
        >>> detector(torch.rand(1, 3, 128, 128)).scores.shape
        torch.Size([1, 100])
    """

    valid_pairs: Tensor

    def __init__(
        self,
        network: nn.Module,
        valid_pairs: np.ndarray,
        *,
        k: int = 100,
        rule: str = "product",
        allow_same: bool = False,
        verb_exponent: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.k, self.rule, self.allow_same = network, k, rule, allow_same
        self.verb_exponent = verb_exponent
        self.register_buffer("valid_pairs", torch.tensor(valid_pairs), persistent=False)

    def forward(self, images: Tensor) -> Triplets:
        """The k best triplets of every image.

        Args:
            images: (B, 3, H, W), normalized RGB (`ggnet.data.preprocess`); H and W multiples of the
                backbone's `size_multiple`.

        Raises:
            RuntimeError: in training mode.
            ValueError: a side of the images is not such a multiple.
        """
        if self.training:
            raise RuntimeError("a Detector in training mode gives no triplets; call .eval() first")
        return self.decode(self.network(images))

    def decode(self, outputs: dict[str, Any], detections: Detections | None = None) -> Triplets:
        """The triplets in what the network gives; with `detections`, of these boxes."""
        maps = {name: outputs[name] for name in MAPS}
        if self.verb_exponent != 1:
            maps["interaction"] = _powered(maps["interaction"], self.verb_exponent)
        return decode_hoi(
            maps,
            self.valid_pairs,
            k=self.k,
            rule=self.rule,
            detections=detections,
            allow_same=self.allow_same,
        )


def _powered(logits: Tensor, exponent: float) -> Tensor:
    """The logits of sigmoid(logits) ** exponent."""
    log = exponent * F.logsigmoid(logits.float())
    return (log - torch.log(-torch.expm1(log))).to(logits.dtype)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode while entered; then every submodule has the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training

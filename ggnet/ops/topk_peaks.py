"""The k highest local maxima of a set of heatmaps."""

import torch
from torch import Tensor

from ggnet.ops import _check, _layout
from ggnet.ops._backend import resolve_operator


def topk_peaks(
    logits: Tensor, k: int = 100, kernel_size: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Peaks over all channels, highest first.

    A peak is a cell whose logit equals the maximum of the kernel_size x kernel_size window around
    it (cells outside of the map do not count), so a plateau keeps every cell; logits are compared,
    since a saturated sigmoid would invent plateaus. NaN counts as -inf, and a cell at -inf is no
    peak. Equal logits: smaller flat index (channel, y, x) first. Source: CenterNet's (Zhou et al.,
    2019) peak extraction, exact where the published code is not.

    Not differentiable: the scores carry no gradient.

    Args:
        logits: (B, V, H, W), float32, bfloat16, float16, or float64 on the CPU.
        k: how many peaks of each image, at least 1.
        kernel_size: odd, in cells.

    Returns:
        scores, channels, ys, xs: each (B, k). score = sigmoid(logit), float64 for float64 logits
        and float32 for all others; the rest int64. Fewer than k peaks: score 0, indices 0.

    Raises:
        ValueError: a shape or parameter that does not fit, or 2**31 elements and more.
        TypeError: a dtype that does not fit.
        BackendError: no kernel for this device, or not in the chosen backend.
    """
    _check.tensor("logits", logits, 4)
    _check.floating("logits", logits)
    k = _check.integer("k", k, 1)
    kernel_size = _check.integer("kernel_size", kernel_size, 1)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; expected an odd number")
    _check.indexable("the output", (logits.shape[0], k))
    operator = resolve_operator("topk_peaks", logits)
    return operator(logits.detach(), k, kernel_size)


def _fake(logits, k, kernel_size):
    shape = (logits.shape[0], k)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    scores = _layout.empty(shape, logits, dtype=dtype)
    return scores, *(_layout.empty(shape, logits, dtype=torch.int64) for _ in range(3))


def register(namespace: str) -> None:
    """Register the fake kernel of `namespace`'s operator."""
    torch.library.register_fake(f"{namespace}::topk_peaks", _fake)


register("ggnet")

"""The k highest local maxima of a set of heatmaps."""

import torch
import torch.nn.functional as F
from torch import Tensor


def topk_peaks(
    logits: Tensor, k: int = 100, kernel_size: int = 3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Peaks over all channels, highest first.

    A peak is a cell whose logit equals the maximum of the kernel_size x kernel_size window around
    it (cells outside of the map do not count), so a plateau keeps every cell. NaN counts as -inf,
    and a cell at -inf is no peak. Equal logits: smaller flat index (channel, y, x) first.

    Args:
        logits: (B, V, H, W).
        k: how many peaks of each image.
        kernel_size: odd.

    Returns:
        scores, channels, ys, xs: each (B, k). score = sigmoid(logit), float64 for float64 logits
        and float32 for all others; the rest int64. Fewer than k peaks: score 0, indices 0.
    """
    logits = torch.where(logits.isnan(), float("-inf"), logits)
    logits = logits.double() if logits.dtype == torch.float64 else logits.float()
    batch, _, height, width = logits.shape
    highest = F.max_pool2d(logits, kernel_size, stride=1, padding=kernel_size // 2)
    peaks = torch.where(logits == highest, logits, float("-inf")).flatten(1)
    order = peaks.argsort(dim=1, descending=True, stable=True)[:, :k]
    values = peaks.gather(1, order)
    index = torch.where(values > float("-inf"), order, 0)
    scores = torch.sigmoid(values)
    missing = (0, k - order.shape[1])
    scores, index = F.pad(scores, missing), F.pad(index, missing)
    cell = index % (height * width)
    return scores, index // (height * width), cell // width, cell % width

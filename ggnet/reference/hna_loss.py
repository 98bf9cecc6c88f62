"""Hard-negative attentive loss: GGNet (CVPR 2021), Eq. 4."""

import torch
from torch import Tensor


def hna_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 7.0,
    gamma: float = 4.0,
    eps: float = 1e-4,
) -> Tensor:
    """Focal loss of heatmaps whose hard negatives weigh more than the background.

    With P = sigmoid(logits) clamped to [eps, 1 - eps] and M = target, each cell contributes

        M = 1        (1 - P)^alpha log(P)
        M = -1       (1 - M)^beta  P^alpha log(1 - P)
        otherwise    (1 - M)^gamma P^alpha log(1 - P)

    and the loss is minus their sum over N = max(1, number of cells with M = 1).

    Args:
        logits, target: (B, V, H, W); target in [-1, 1].

    Returns:
        The scalar loss. Where the clamp is active the gradient is 0.
    """
    p = torch.sigmoid(logits).clamp(eps, 1 - eps)
    positive = (1 - p) ** alpha * torch.log(p)
    # Of tensors: torch.where makes float32 of two numbers, whatever the logits are.
    power = torch.where(target == -1, torch.full_like(p, beta), torch.full_like(p, gamma))
    negative = (1 - target) ** power * p**alpha * torch.log(1 - p)
    count = (target == 1).sum().clamp(min=1)
    return -torch.where(target == 1, positive, negative).sum() / count

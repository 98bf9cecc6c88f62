"""Optimizer, learning-rate schedule and weight averaging."""

import copy
import math

import torch
from torch import nn

from ggnet.config import TrainConfig
from ggnet.models import GGNet

# One cycle: rises over the first 15 % of the steps, then falls along a cosine to 1/1000.
WARMUP, FINAL = 0.15, 1e-3


def scaled_lr(config: TrainConfig, images_per_step: int) -> float:
    """config.lr in proportion to the images of a step, where config.lr_batch says for how many it
    is meant (the linear rule of Goyal et al., 2017)."""
    return config.lr * (images_per_step / config.lr_batch if config.lr_batch else 1)


def build_optimizer(
    model: GGNet, config: TrainConfig, images_per_step: int | None = None
) -> torch.optim.Adam:
    """Adam without weight decay; the glance head learns `glance_lr_multiplier` times faster.

    Args:
        images_per_step: in all processes and micro-batches, for `scaled_lr`; None: as config.lr
            wants.

    The fused implementation is one kernel for all parameters, and it skips the update where its
    `found_inf` is 1 without asking the host: that is how a NaN step is left out on a GPU.
    """
    lr = config.lr if images_per_step is None else scaled_lr(config, images_per_step)
    glance = model.glance_parameters()
    special = {id(parameter) for parameter in glance}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in special]
    groups = [
        {"params": parameters, "lr": lr, "base_lr": lr}
        for parameters, lr in (
            (rest, lr),
            (glance, lr * config.glance_lr_multiplier),
        )
        if parameters
    ]
    return torch.optim.Adam(groups, fused=True)


def set_lr(
    optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, steps_per_epoch: int
) -> float:
    """Set every group's rate for optimizer step `step` (from 0 over the whole run).

    The rate is a function of the step alone, so a resumed run needs no scheduler state. Returns
    the rate of the first group.
    """
    factor = lr_factor(config, step, steps_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return optimizer.param_groups[0]["lr"]


def lr_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """What the base rates are multiplied with at `step`.

    "step": 0.1 for each of `lr_steps` (epochs) that has passed, the paper's schedule. "onecycle":
    see `WARMUP` and `FINAL`.
    """
    if config.lr_schedule == "step":
        epoch = step // steps_per_epoch
        return 0.1 ** sum(epoch >= drop for drop in config.lr_steps)
    position = (step + 1) / (config.epochs * steps_per_epoch)
    if position < WARMUP:
        return position / WARMUP
    fall = (position - WARMUP) / (1 - WARMUP)
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))


class WeightAverage:
    """Exponential moving average of a network's parameters and buffers.

    The decay grows to its value as (1 + n) / (10 + n), so that short runs are not held back by
    their initial weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards `model` after optimizer step `step` (from 0 over the whole run)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        average, current = self.module.state_dict(), model.state_dict()
        floating = [name for name, value in average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [average[name] for name in floating], [current[name] for name in floating], weight
        )
        for name in average.keys() - floating:
            average[name].copy_(current[name])

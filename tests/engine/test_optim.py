"""Learning rates follow the paper; averaged weights follow the network."""

import math

import pytest
import torch

from ggnet.config import load_config
from ggnet.engine.optim import WeightAverage, build_optimizer, lr_factor, scaled_lr, set_lr
from ggnet.models import build_model


def build(*overrides):
    config = load_config(None, ["model.width=16", *overrides])
    return build_model(config.model, num_objects=3, num_verbs=4), config.train


def test_step_schedule_is_the_papers():
    _, config = build()
    rates = [lr_factor(config, epoch * 10 + 9, 10) for epoch in (0, 89, 90, 119, 120)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_onecycle_rises_then_falls():
    _, config = build("train.lr_schedule=onecycle", "train.epochs=10")
    rates = [lr_factor(config, step, 10) for step in range(100)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[5] == pytest.approx(0.06 / 0.15)  # rises over 15 % of the steps
    assert rates[14] == pytest.approx(1)
    assert rates[74] == pytest.approx(1e-3 + 0.999 * 0.5 * (1 + math.cos(math.pi * 0.6 / 0.85)))
    assert rates[99] == pytest.approx(1e-3)


def test_only_the_glance_head_learns_faster():
    model, config = build("train.lr=1e-4", "train.glance_lr_multiplier=10")
    optimizer = build_optimizer(model, config)
    assert set_lr(optimizer, config, 90 * 5, 5) == pytest.approx(1e-5)  # the others'
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    glance = {id(p) for p in model.glance_parameters()}
    assert glance
    assert len(rate) == len(list(model.parameters()))
    for parameter in model.parameters():
        expected = 1e-4 if id(parameter) in glance else 1e-5  # both dropped once
        assert rate[id(parameter)] == pytest.approx(expected)


def test_average_starts_at_the_weights_and_lags_behind():
    model, _ = build()
    average = WeightAverage(model, decay=0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    average.update(model, step=1000)
    for name, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, before[name] + 0.1)
        else:  # the number of batches seen is no average
            assert torch.equal(value, before[name] + 1)
    average.update(model, step=0)  # an early step counts much more: decay (1 + 0) / (10 + 0)
    name = "heads.0.size.0.weight"
    torch.testing.assert_close(average.module.state_dict()[name], before[name] + 0.91)


def test_lr_follows_the_images_of_a_step():
    model, config = build("train.lr=1e-3", "train.lr_batch=112")
    for images, lr in ((112, 1e-3), (28, 2.5e-4), (None, 1e-3)):
        optimizer = build_optimizer(model, config, images)
        assert [group["base_lr"] for group in optimizer.param_groups] == pytest.approx(
            [lr, 10 * lr]
        )
    _, config = build("train.lr=1e-3")
    assert scaled_lr(config, 5) == 1e-3

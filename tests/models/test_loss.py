import dataclasses

import pytest
import torch
from tolerances import AUTOCAST_LOSS, TERMS
from torch._subclasses.fake_tensor import FakeTensorMode

from ggnet import reference
from ggnet.config import LossConfig, ModelConfig
from ggnet.data.batch import Batch
from ggnet.models import build_model
from ggnet.nn import GGNetLoss

OBJECTS, VERBS = 4, 5
NO_TARGETS = {"objects": 0, "interactions": 0, "negatives": 0}


def random_outputs(stacks=2, maps=3, apm=True, images=2, cells=8) -> list[dict]:
    torch.manual_seed(0)

    def output(channels: int) -> torch.Tensor:
        return torch.randn(images, channels, cells, cells, requires_grad=True)

    return [
        {
            "heatmap": output(OBJECTS),
            "size": output(2),
            "center_frac": output(2),
            "interaction": [output(VERBS) for _ in range(maps)],
            "human_offset": output(2 * VERBS if apm else 2),
            "object_offset": output(2 * VERBS if apm else 2),
        }
        for _ in range(stacks)
    ]


def naive_terms(
    outs: list[dict], batch: Batch, config: LossConfig, beta: float
) -> dict[str, torch.Tensor]:
    """Every term by the published code's dense recipe: one target map and one loop a point."""
    terms = {}
    for out in outs:
        verb_points = [*zip(batch.interactions, batch.interaction_radii, strict=True)]
        signs = [1] * len(verb_points)
        if config.interaction == "hna":
            negatives = [(p, config.hard_negative_radius) for p in batch.hard_negatives]
            verb_points += negatives
            signs += [-1] * len(negatives)
        centers = torch.stack([point for point, _ in verb_points])
        radii = torch.tensor([int(radius) for _, radius in verb_points])
        objects = reference.draw_heatmaps(
            batch.objects,
            batch.object_radii,
            torch.ones_like(batch.object_radii),
            out["heatmap"].shape,
        )
        add(terms, "heatmap", reference.hna_loss(out["heatmap"], objects))
        for index, logits in enumerate(out["interaction"]):
            split = config.target_style == "split" and index > 0
            blind = config.hard_negatives == ("glance" if index else "gaze")
            seen = len(batch.interactions) if blind else len(centers)
            target = reference.draw_heatmaps(
                centers[:seen],
                radii[:seen],
                torch.tensor(signs[:seen]),
                logits.shape,
                positive_factor=8.0 if split else 6.0,
                negative_factor=2.0 if split else 6.0,
            )
            loss = reference.hna_loss(logits, target, beta=beta)
            add(terms, f"gaze{index}" if index else "glance", loss)
        for name, points, targets in (
            ("size", batch.objects, batch.sizes),
            ("center_frac", batch.objects, batch.centers_frac),
            ("human_offset", batch.interactions, batch.human_offsets),
            ("object_offset", batch.interactions, batch.object_offsets),
        ):
            total = 0
            for (image, verb, y, x), target in zip(points.tolist(), targets, strict=True):
                first = 2 * verb if out[name].shape[1] > 2 else 0
                total += (out[name][image, first : first + 2, y, x] - target).abs().sum()
            add(terms, name, total / (2 * len(points) + 1e-4))
    return {name: torch.stack(values) for name, values in terms.items()}


def add(terms: dict, name: str, value: torch.Tensor) -> None:
    terms.setdefault(name, []).append(value)


@pytest.mark.parametrize("interaction", ["hna", "focal"])
@pytest.mark.parametrize("target_style", ["split", "same"])
@pytest.mark.parametrize("apm", [True, False])
def test_equals_the_dense_recipe(interaction, target_style, apm, make_batch):
    config = LossConfig(interaction=interaction, target_style=target_style, beta=5.0)
    outs, batch = random_outputs(apm=apm), make_batch()
    total, terms = GGNetLoss(config)(outs, batch)
    expected = {name: term.mean() for name, term in naive_terms(outs, batch, config, 5.0).items()}
    assert set(terms) == set(expected)
    for name, term in terms.items():
        torch.testing.assert_close(term, expected[name].detach(), **TERMS)
        assert not term.requires_grad
    e = expected
    weighted = (
        e["heatmap"]
        + e["gaze2"]
        + 0.1 * (e["glance"] + e["gaze1"])
        + 0.1 * (e["size"] + e["human_offset"] + e["object_offset"])
        + e["center_frac"]
    )
    torch.testing.assert_close(total, weighted, **TERMS)


@pytest.mark.parametrize("target_style", ["split", "same"])
@pytest.mark.parametrize("hard_negatives", ["glance", "gaze"])
def test_hard_negatives_of_some_maps(hard_negatives, target_style, make_batch):
    config = LossConfig(hard_negatives=hard_negatives, target_style=target_style)
    outs, batch = random_outputs(), make_batch()
    _, terms = GGNetLoss(config)(outs, batch)
    for name, term in naive_terms(outs, batch, config, 7.0).items():
        torch.testing.assert_close(terms[name], term.mean().detach(), **TERMS)


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 0.0), (0.1, 2.0), (0.25, 5.0), (1.0, 5.0)])
def test_beta_grows_along_its_ramp(progress, beta, make_batch):
    config = LossConfig(beta=5.0, beta_ramp=0.25)
    outs, batch = random_outputs(), make_batch()
    _, terms = GGNetLoss(config)(outs, batch, progress)
    for name, term in naive_terms(outs, batch, config, beta).items():
        torch.testing.assert_close(terms[name], term.mean().detach(), **TERMS)


def test_offsets_can_be_summed_over_stacks(make_batch):
    outs, batch = random_outputs(stacks=3), make_batch()
    _, mean = GGNetLoss(LossConfig())(outs, batch)
    _, summed = GGNetLoss(LossConfig(offset_reduction="sum"))(outs, batch)
    for name in mean:
        factor = 3 if name.endswith("_offset") else 1
        torch.testing.assert_close(summed[name], factor * mean[name])


def test_a_single_verb_map_has_full_weight(make_batch):
    outs, batch = random_outputs(stacks=1, maps=1, apm=False), make_batch()
    weights = dict.fromkeys(("size_weight", "center_weight", "offset_weight"), 0)
    total, terms = GGNetLoss(LossConfig(**weights))(outs, batch)
    torch.testing.assert_close(total.detach(), terms["heatmap"] + terms["glance"])


def test_human_branch_learns_at_the_human_center(make_batch):
    batch = make_batch(images=1, objects=0, interactions=1, negatives=0)
    batch = dataclasses.replace(
        batch,
        interactions=torch.tensor([[0, 3, 4, 5]], dtype=torch.int32),
        interaction_radii=torch.zeros(1, dtype=torch.int32),
        human_offsets=torch.tensor([[2.0, -3.0]]),  # (x, y): the human is at y 7, x 3
    )
    (out,) = random_outputs(stacks=1, maps=1, apm=False, images=1)
    logits = torch.zeros(1, VERBS, 8, 8, requires_grad=True)
    total, terms = GGNetLoss(LossConfig())([out | {"human_verbs": logits}], batch)
    total.backward()
    assert "human_verbs" in terms
    assert (logits.grad < 0).nonzero().tolist() == [[0, 3, 7, 3]]


@pytest.mark.parametrize("switches", [{}, {"aggregation": "interaction+human", "apm": False}])
def test_images_without_any_target(switches, make_batch):
    model = build_model(ModelConfig(width=16, **switches), OBJECTS, VERBS)
    batch = make_batch(**NO_TARGETS)
    total, terms = GGNetLoss(LossConfig())(model(batch.images), batch)
    total.backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms["size"] == terms["human_offset"] == 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


def test_never_waits_for_the_device(make_batch):
    """Fake tensors have no values: reading one on the host would raise."""
    outs, batch = random_outputs(), make_batch()
    mode = FakeTensorMode()
    fake_outs = torch.utils._pytree.tree_map(mode.from_tensor, outs)
    fake_batch = batch._map(mode.from_tensor)
    with mode:
        total, _ = GGNetLoss(LossConfig())(fake_outs, fake_batch)
        total.backward()
    assert fake_outs[0]["interaction"][0].grad.shape == (2, VERBS, 8, 8)


def test_bfloat16_autocast(make_batch):
    """Mixed precision: nearly the same loss, in float32, and a gradient for every parameter."""
    torch.manual_seed(0)
    model, criterion = build_model(ModelConfig(width=16), OBJECTS, VERBS), GGNetLoss(LossConfig())
    batch = make_batch()
    expected, _ = criterion(model(batch.images), batch)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = criterion(model(batch.images), batch)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected, rtol=AUTOCAST_LOSS, atol=0)
    total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("switches", [{}, {"aggregation": "interaction", "apm": False}])
def test_a_single_batch_can_be_learned(switches, make_batch):
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=16, **switches), OBJECTS, VERBS)
    criterion = GGNetLoss(LossConfig())
    batch = make_batch(objects=4, interactions=3, negatives=4)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        total, _ = criterion(model(batch.images), batch)
        total.backward()
        optimizer.step()
        history.append(total.item())
    assert history[-1] < 0.2 * history[0]

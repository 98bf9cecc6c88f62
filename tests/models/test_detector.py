"""Images to triplets as one module: what an exporter and a CUDA graph are given."""

import numpy as np
import pytest
import torch

from ggnet import ops
from ggnet.config import ModelConfig
from ggnet.models import Detector, build_model
from ggnet.models.detector import MAPS

OBJECTS, VERBS, K = 3, 4, 20
PAIRS = np.array([[0, 1, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]], bool)


def detector(**switches) -> Detector:
    torch.manual_seed(0)
    network = build_model(ModelConfig(width=16, points_per_step=9, **switches), OBJECTS, VERBS)
    for name, parameter in network.named_parameters():
        if "points" in name or "conv_offset" in name:  # zero at first: let them stray
            torch.nn.init.normal_(parameter, std=0.1)
    return Detector(network, PAIRS, k=K).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_it_is_the_network_and_its_decoding(images):
    model = detector()
    found = model(images)
    expected = ops.decode_hoi(model.network(images), torch.tensor(PAIRS), k=K)
    for name, value in expected._asdict().items():
        assert torch.equal(getattr(found, name), value), name
    assert found.scores.shape == (2, K)
    there = found.scores > 0
    assert there.any()
    assert PAIRS[found.verbs[there], found.object_labels[there]].all()


def test_it_decodes_as_it_was_told_to():
    maps = {
        "heatmap": torch.full((1, 3, 6, 6), -9.0),
        "interaction": torch.full((1, 4, 6, 6), -9.0),
    }
    maps |= {name: torch.ones(1, 2, 6, 6) for name in ("size", "center_frac")}
    maps |= {name: torch.zeros(1, 2, 6, 6) for name in ("human_offset", "object_offset")}
    maps["heatmap"][0, 0, 2, 2], maps["heatmap"][0, 0, 2, 4] = 4.0, 3.0
    maps["interaction"][0, 2, 2, 2] = 4.0  # of a person with a person
    for how in ({}, {"allow_same": True}, {"rule": "distance"}, {"k": 3}):
        found = Detector(torch.nn.Identity(), PAIRS, **how).decode(maps)
        expected = ops.decode_hoi(maps, torch.tensor(PAIRS), **how)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        same = torch.equal(found.human_boxes[0, 0], found.object_boxes[0, 0])
        assert same == ("allow_same" in how)


@pytest.mark.parametrize("exponent", [0.3, 1.0, 2.5])
@torch.no_grad()
def test_the_verbs_score_to_a_power(images, exponent):
    model = detector()
    outputs = model.network(images)
    plain = model.decode(outputs)
    model.verb_exponent = exponent
    powered = model.decode(outputs)
    double = {name: outputs[name].double() for name in MAPS}
    double["interaction"] = torch.logit(double["interaction"].sigmoid() ** exponent)
    expected = ops.decode_hoi(double, torch.tensor(PAIRS), k=K)
    torch.testing.assert_close(powered.scores, expected.scores.float(), rtol=1e-5, atol=1e-7)
    assert torch.equal(powered.verbs, expected.verbs)
    assert torch.equal(powered.scores, plain.scores) == (exponent == 1)


def test_a_power_of_certain_scores_stays_in_range():
    maps = {
        "heatmap": torch.full((1, 3, 6, 6), 200.0),
        "interaction": torch.full((1, 4, 6, 6), 200.0),
    }
    maps |= {name: torch.ones(1, 2, 6, 6) for name in ("size", "center_frac")}
    maps |= {name: torch.zeros(1, 2, 6, 6) for name in ("human_offset", "object_offset")}
    maps["interaction"][:, :, 3:] = -torch.inf
    found = Detector(torch.nn.Identity(), PAIRS, verb_exponent=0.5, k=90).decode(maps)
    assert set(found.scores.flatten().tolist()) == {0.0, 1.0}


def test_training_mode_is_refused(images):
    with pytest.raises(RuntimeError, match="call .eval"):
        detector().train()(images)


def test_state_dict_is_the_networks():
    model = detector()
    theirs = {f"network.{name}" for name in model.network.state_dict()}
    assert set(model.state_dict()) == theirs


@pytest.mark.parametrize(
    "switches",
    [
        {},
        pytest.param(
            {"aggregation": "interaction+human+object", "apm": False}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
@torch.no_grad()
def test_exported_it_finds_the_same_at_any_batch(images, switches):
    model = detector(**switches)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    program = torch.export.export(model, (images,), dynamic_shapes=(batch,), strict=False)
    for count in (2, 1, 5):
        some = torch.randn(count, 3, 64, 96)
        for name, value in model(some)._asdict().items():
            torch.testing.assert_close(
                getattr(program.module()(some), name), value, rtol=0, atol=0, msg=name
            )

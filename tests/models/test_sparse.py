"""Gaze steps at some cells only: what is computed is what the dense network computes there."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ggnet.config import ModelConfig, load_config
from ggnet.data.tables import vcoco_vocabulary
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.models import build_model
from ggnet.models.sparse import Cells

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def network(**switches) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=16, **switches), num_objects=5, num_verbs=7).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("count", [1, 5, 100, 23 * 9 - 1])
def test_a_convolution_at_the_best_cells(count):
    torch.manual_seed(count)
    scores, features = torch.randn(2, 23, 9), torch.randn(2, 6, 23, 9)
    weight, bias = torch.randn(4, 6, 3, 3), torch.randn(4)
    cells = Cells.best(scores, count)
    found = cells.put(cells.conv(features, weight, bias), torch.nan)
    dense = F.conv2d(features, weight, bias, padding=1)
    assert torch.equal(cells.take(found), cells.conv(features, weight, bias))
    for image in range(2):
        computed = ~found[image, 0].isnan()
        assert computed.sum() >= count
        assert (scores[image][~computed] <= scores[image][computed].min()).all()
        torch.testing.assert_close(found[image][:, computed], dense[image][:, computed], **CLOSE)


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_around_are_all_cells_within_reach(reach):
    cells = Cells.best(torch.randn(2, 40, 33), 5)
    near = cells.around(reach)
    width = 33
    for chosen, found in zip(cells.index.tolist(), near.index.tolist(), strict=True):
        wanted = {
            (cell // width + y) * width + cell % width + x
            for cell in chosen
            for y in range(-reach, reach + 1)
            for x in range(-reach, reach + 1)
            if 0 <= cell // width + y < 40 and 0 <= cell % width + x < width
        }
        assert wanted <= set(found)
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("count", [1, 40, 200, 24 * 40 - 1])
@pytest.mark.parametrize(
    "switches",
    [
        {"gaze_steps": 1},
        {"gaze_steps": 2, "points_per_step": 9},
        {"gaze_steps": 3, "points_per_step": 49},
        {"gaze_steps": 2, "shared_features": True},
    ],
)
@torch.inference_mode()
def test_equals_the_dense_network_at_the_chosen_cells(switches, count):
    model = network(**switches)
    images = torch.randn(2, 3, 96, 160)
    dense = model(images)
    heads = model.heads[-1]
    glance = heads.verbs.glance(heads.interaction_feature(model.backbone(images)[-1])).amax(1)
    model.set_gaze_cells(count)
    sparse = model(images)
    chosen = sparse["interaction"][:, 0].isfinite()
    assert (chosen.flatten(1).sum(1) >= count).all()
    for image in range(2):
        best = glance[image].flatten().topk(count).indices
        assert chosen[image].flatten()[best].all()
    assert sparse.keys() == dense.keys()
    assert len(sparse["actpoints"]) == switches["gaze_steps"]
    of_gaze = [sparse["interaction"], *sparse["actpoints"]]
    for part, whole in zip(of_gaze, [dense["interaction"], *dense["actpoints"]], strict=True):
        part, whole = part.movedim(1, -1), whole.movedim(1, -1)
        torch.testing.assert_close(part[chosen], whole[chosen], **CLOSE)
    assert (sparse["interaction"].movedim(1, -1)[~chosen].sigmoid() == 0).all()
    for name in ("heatmap", "size", "center_frac", "human_offset", "object_offset"):
        assert torch.equal(sparse[name], dense[name])


@torch.inference_mode()
def test_all_cells_are_the_dense_network_itself():
    model, images = network(), torch.randn(1, 3, 64, 64)
    dense = model(images)["interaction"]
    for count in (16 * 16, 10_000, None):
        model.set_gaze_cells(count)
        assert torch.equal(model(images)["interaction"], dense)


def test_a_predictor_finds_the_dense_networks_best_triplets():
    vocabulary = vcoco_vocabulary()
    config = load_config(None, ["model.width=16", "eval.k=100"])
    torch.manual_seed(0)
    model = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs))
    images = [torch.randint(0, 256, (90, 120, 3), dtype=torch.uint8).numpy()]
    results = []
    points = []
    for cells in (None, 1000, 128):
        config.eval.gaze_cells = cells
        predictor = Predictor(model, vocabulary, config, "cpu")
        [(prediction, gaze)] = predictor.look(*predictor.prepare(images), steps=False)
        results.append(prediction)
        found = gaze.points[prediction.scores > 0]
        points.append({tuple(point) for point in found.round(3).tolist()})
    assert points[2]
    assert points[2] != points[0] == points[1]
    dense, sparse, _ = results
    assert dense.verbs.tolist() == sparse.verbs.tolist()
    torch.testing.assert_close(torch.tensor(sparse.scores), torch.tensor(dense.scores), **CLOSE)


@pytest.mark.parametrize(
    ("settings", "dtype", "message"),
    [
        (["model.gaze_steps=0"], "float32", "eval.gaze_cells is 9, but the network has no gaze"),
        ([], "bfloat16", "works in float32 and outside of CUDA graphs, not with bfloat16"),
    ],
)
def test_what_cannot_be_is_refused(settings, dtype, message):
    vocabulary = vcoco_vocabulary()
    config = load_config(None, ["model.width=16", "eval.gaze_cells=9", *settings])
    model = build_model(config.model, len(vocabulary.objects), len(vocabulary.verbs))
    with pytest.raises(UserError, match=message):
        Predictor(model, vocabulary, config, "cpu", dtype=dtype)

import copy

import pytest
import torch

from ggnet.config import LossConfig, ModelConfig
from ggnet.models import GGNet, HourglassNet, build_model
from ggnet.models.checkpointing import set_checkpointing
from ggnet.nn import GGNetLoss

NETWORKS = {
    "tiny": {"gaze_steps": 2},
    "shared": {"gaze_steps": 3, "shared_features": True},
    "actpoints": {"aggregation": "actpoints"},
    "pair": {"aggregation": "interaction+human+object", "apm": False},
    "dla34": {"backbone": "dla34", "gaze_steps": 1},
}


def step(model, batch) -> tuple[torch.Tensor, int]:
    """One forward and backward; the loss, and the bytes that autograd stored for the backward."""
    stored = {}

    def store(tensor):
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(store, lambda tensor: tensor):
        loss, _ = GGNetLoss(LossConfig())(model.train()(batch.images), batch)
    loss.backward()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return loss, sum(size for key, size in stored.items() if key not in weights)


@pytest.mark.parametrize("network", NETWORKS)
def test_recomputing_changes_neither_losses_nor_gradients_nor_statistics(network, make_batch):
    switches = {"width": 16} | NETWORKS[network]
    batch, results = make_batch(2, 64), {}
    for setting in ("none", "heads", "all"):
        torch.manual_seed(0)
        model = build_model(ModelConfig(checkpointing=setting, **switches), 4, 5)
        loss, stored = step(model, batch)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results[setting] = ({"loss": loss, **gradients, **dict(model.named_buffers())}, stored)
    plain, most = results.pop("none")
    for setting, (values, stored) in results.items():
        assert stored < most, setting
        for name, value in plain.items():
            assert torch.equal(value, values[name]), f"{setting}: {name}"
        most = stored


def test_hourglass_recomputes_its_residual_blocks(make_batch):
    heads = {"aggregation": "gaze", "gaze_steps": 1, "points_per_step": 9}
    heads |= {"shared_features": False, "apm": True}
    torch.manual_seed(0)
    plain = GGNet(HourglassNet((8, 8, 12), (1, 1, 1), 2), 4, 5, **heads)
    recomputing = copy.deepcopy(plain)
    set_checkpointing(recomputing)
    (loss, stored), (other, less) = (step(m, make_batch(2, 32)) for m in (plain, recomputing))
    assert torch.equal(loss, other)
    assert less < stored
    for (name, own), value in zip(
        recomputing.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(own, value), name
    for (name, own), value in zip(recomputing.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(own.grad, value.grad), name


def test_evaluation_and_no_grad_are_not_touched(make_batch):
    torch.manual_seed(0)
    model = build_model(ModelConfig(width=16, checkpointing="all"), 4, 5)
    batch = make_batch(2, 32)
    with torch.no_grad():
        outputs = model.train()(batch.images)
    assert not outputs[0]["heatmap"].requires_grad
    counts = [value for name, value in model.named_buffers() if name.endswith("tracked")]
    assert {int(count) for count in counts} == {1}
    torch.export.export(model.eval(), (batch.images,))

"""What only a GPU has: streams, graphs, synchronization, TF32."""

import numpy as np
import pytest
import torch
from test_operators import hoi_maps
from tolerances import DEVICE_NETWORK, TF32

from ggnet import ops
from ggnet.config import ModelConfig
from ggnet.models import Detector, build_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def tensors(dtype=torch.float32):
    shapes = [(1, 64, 24, 24), (1, 75, 24, 24), (64, 64, 5, 5)]
    torch.manual_seed(0)
    return [torch.randn(*shape, dtype=dtype, device="cuda", requires_grad=True) for shape in shapes]


def test_nothing_waits_for_the_device(backend):
    features, points, weight = tensors()
    logits = torch.randn(2, 6, 24, 24, device="cuda", requires_grad=True)
    target = torch.rand(2, 6, 24, 24, device="cuda")
    maps = hoi_maps("cuda")
    centers = torch.tensor([[0, 0, 3, 4]], dtype=torch.int32, device="cuda")
    ones = torch.ones(1, dtype=torch.int32, device="cuda")

    def work():
        ops.actpoint_aggregate(features, points, weight).sum().backward()
        ops.hna_loss(logits, target).backward()
        ops.draw_heatmaps(centers, ones, ones, (1, 1, 8, 8))
        ops.decode_hoi(maps)

    work()  # compilation and tuning may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_captures_forward_and_decoding(backend):
    features, points, weight = (t.detach() for t in tensors())
    maps = hoi_maps("cuda")

    def work():
        return ops.actpoint_aggregate(features, points, weight), ops.decode_hoi(maps).scores

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    features.copy_(torch.randn_like(features))
    for name, value in hoi_maps("cuda", seed=5).items():
        maps[name].copy_(value)
    graph.replay()
    for replayed, eager in zip(captured, work(), strict=True):
        torch.testing.assert_close(replayed, eager)


@torch.no_grad()
def test_a_graph_captures_the_detector(backend):
    torch.manual_seed(0)
    network = build_model(ModelConfig(width=16, points_per_step=9), 3, 4)
    detector = Detector(network, np.ones((4, 3), bool), k=20).eval().cuda()
    images = torch.randn(2, 3, 64, 64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        detector(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = detector(images)
    images.copy_(torch.randn_like(images))
    graph.replay()
    for name, eager in detector(images)._asdict().items():
        torch.testing.assert_close(getattr(captured, name), eager, msg=name)


def test_work_goes_to_the_current_stream(backend):
    features, points, weight = (t.detach() for t in tensors())
    expected = ops.actpoint_aggregate(features, points, weight)
    stream = torch.cuda.Stream()
    late = torch.zeros_like(features)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late.copy_(features)
        got = ops.actpoint_aggregate(late, points, weight)
    stream.synchronize()
    torch.testing.assert_close(got, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_tensors_device_is_used(backend):
    leaves = [t.detach().to("cuda:1") for t in tensors()]
    assert ops.actpoint_aggregate(*leaves).device == leaves[0].device


def test_tf32_is_torchs_choice(backend):
    features, points, weight = (t.detach() for t in tensors())
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        results = []
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            results.append(ops.actpoint_aggregate(features, points, weight))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    torch.testing.assert_close(results[0], results[1], **TF32)
    if torch.cuda.get_device_capability() >= (8, 0):
        assert not torch.equal(*results)


def test_limits_are_refused():
    with pytest.raises(TypeError, match="float64"):
        ops.actpoint_aggregate(*(t.double() for t in tensors()))


def test_the_network_gives_what_it_gives_on_the_cpu():
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = {}
    for device in ("cpu", "cuda"):
        torch.manual_seed(1)
        model = build_model(ModelConfig(width=16, points_per_step=9), 4, 5).eval().to(device)
        with torch.no_grad():
            outputs[device] = model(images.to(device))
    for name, value in outputs["cpu"].items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(outputs["cuda"][name].cpu(), value, **DEVICE_NETWORK)

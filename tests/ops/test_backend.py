"""Which backend runs: what resolve says, and that a choice is obeyed or refused, never changed."""

import dataclasses
import itertools
import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from ggnet import ops
from ggnet.ops._operators import QUERIES, SCHEMAS


def _peaks() -> tuple[torch.Tensor, ...]:
    index = torch.zeros(1, 2, dtype=torch.int64)
    return torch.ones(1, 2), index, index, index


CALLS = {
    "actpoint_aggregate": lambda: ops.actpoint_aggregate(
        torch.ones(1, 2, 4, 4), torch.ones(1, 27, 4, 4), torch.ones(2, 2, 3, 3)
    ),
    "deform_conv2d": lambda: ops.deform_conv2d(
        torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), torch.ones(2, 2, 1, 1)
    ),
    "hna_loss": lambda: ops.hna_loss(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4)),
    "draw_heatmaps": lambda: ops.draw_heatmaps(
        torch.zeros(1, 4, dtype=torch.int32),
        torch.ones(1, dtype=torch.int32),
        torch.ones(1, dtype=torch.int32),
        (1, 1, 4, 4),
    ),
    "topk_peaks": lambda: ops.topk_peaks(torch.ones(1, 2, 4, 4), 3),
    "match_points": lambda: ops.match_points(
        _peaks(), _peaks(), _peaks(), torch.ones(1, 2, 2), torch.ones(1, 2, 2)
    ),
}


@pytest.fixture(autouse=True)
def no_choice_in_the_environment(monkeypatch):
    monkeypatch.delenv("GGNET_BACKEND", raising=False)


def test_every_operator_is_called_here():
    assert set(CALLS) == set(ops.OPERATORS)


@pytest.mark.parametrize("op", ops.OPERATORS)
def test_resolve_says_what_runs_and_why_the_others_do_not(op):
    resolution = ops.resolve(op, torch.ones(1))
    assert resolution.backend == "cpu"
    assert resolution.rejected.keys() == {"cuda", "triton"}
    assert resolution.rejected["cuda"] == "the tensor is on cpu"
    assert str(resolution).startswith(f"{op} on cpu: cpu\n  cuda: the tensor is on cpu")


def test_resolve_on_a_device_without_kernels():
    with FakeTensorMode():
        tensor = torch.empty(1, device="mps")
    resolution = ops.resolve("hna_loss", tensor)
    assert resolution.backend is None
    assert resolution.rejected["cpu"] == "the tensor is on mps"
    assert "no backend can run it" in str(resolution)


def test_resolve_says_which_kernels_of_several_run():
    resolution = ops.resolve("hna_loss", torch.ones(1))
    assert resolution.kernels is None
    several = dataclasses.replace(resolution, kernels="Hopper's")
    assert str(several).startswith("hna_loss on cpu: cpu; kernels: Hopper's\n")


def test_the_library_has_the_operators_that_are_listed():
    registered = {
        name.removeprefix("ggnet::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("ggnet::")
    }
    assert registered == {*itertools.chain(*SCHEMAS.values()), *QUERIES}


def test_resolve_of_an_unknown_operator():
    with pytest.raises(ValueError, match="no operator 'nms'; expected one of actpoint_aggregate"):
        ops.resolve("nms", torch.ones(1))


@pytest.mark.parametrize("op", ops.OPERATORS)
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_choice_that_cannot_run_raises_and_lists_candidates(op, backend):
    with ops.use_backend(backend), pytest.raises(ops.BackendError) as caught:
        CALLS[op]()
    message = str(caught.value)
    assert f"{op} on cpu: no backend can run it" in message
    assert f"cpu: '{backend}' was chosen" in message
    assert all(f"\n  {name}: " in message for name in ops.BACKENDS)


@pytest.mark.parametrize("op", ops.OPERATORS)
def test_choice_that_can_run_runs(op):
    """And gives what runs unasked."""
    with ops.use_backend("cpu"):
        chosen = CALLS[op]()
    torch.testing.assert_close(chosen, CALLS[op](), rtol=0, atol=0)


def test_choice_ends_with_its_block():
    with pytest.raises(KeyError), ops.use_backend("triton"):
        raise KeyError
    assert ops.resolve("hna_loss", torch.ones(1)).backend == "cpu"
    assert CALLS["hna_loss"]().isfinite()


def test_inner_choice_wins():
    with ops.use_backend("triton"):
        with ops.use_backend("cpu"):
            CALLS["hna_loss"]()
        with pytest.raises(ops.BackendError):
            CALLS["hna_loss"]()


def test_choice_is_the_threads_own():
    seen = []

    def other():
        seen.append(ops.resolve("hna_loss", torch.ones(1)).backend)

    with ops.use_backend("triton"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == ["cpu"]


def test_environment_chooses_and_use_backend_overrides_it(monkeypatch):
    monkeypatch.setenv("GGNET_BACKEND", "cuda")
    assert ops.resolve("hna_loss", torch.ones(1)).rejected["cpu"] == "'cuda' was chosen"
    with pytest.raises(ops.BackendError):
        CALLS["hna_loss"]()
    with ops.use_backend("cpu"):
        CALLS["hna_loss"]()


def test_unknown_choices_are_named(monkeypatch):
    with pytest.raises(ValueError, match="no backend 'tpu'; expected one of cpu, cuda, triton"):
        ops.use_backend("tpu").__enter__()
    monkeypatch.setenv("GGNET_BACKEND", "tpu")
    with pytest.raises(ValueError, match="GGNET_BACKEND: no backend 'tpu'"):
        CALLS["hna_loss"]()


def test_reference_is_never_dispatched_to(monkeypatch):
    message = "'reference' cannot be chosen.*ggnet.reference"
    with pytest.raises(ValueError, match=message):
        ops.use_backend("reference").__enter__()
    monkeypatch.setenv("GGNET_BACKEND", "reference")
    with pytest.raises(ValueError, match=message):
        CALLS["hna_loss"]()


def test_choice_under_compile():
    function = torch.compile(CALLS["hna_loss"], fullgraph=True, backend="eager")
    with ops.use_backend("cpu"):
        torch.testing.assert_close(function(), CALLS["hna_loss"]())
    torch._dynamo.reset()
    with ops.use_backend("triton"), pytest.raises(Exception, match="'triton' was chosen"):
        function()


def test_meta_tensors_have_shapes_without_a_backend():
    logits = torch.empty(2, 3, 4, 5, device="meta")
    assert ops.hna_loss(logits, logits).shape == ()
    assert ops.topk_peaks(logits, 7)[0].shape == (2, 7)

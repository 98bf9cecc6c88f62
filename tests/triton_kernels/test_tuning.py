"""The choice among configurations is short, made once for a class of sizes, and kept on disk."""

import importlib
import pkgutil
from unittest import mock

import pytest
import torch
import triton
from launches import CASES, Launch, launches
from triton.runtime.autotuner import Autotuner

from ggnet import kernels
from ggnet.ops import OPERATORS

MAX_CONFIGS = 3  # each takes seconds to compile and a tenth of one to time


def tuned_kernels() -> dict[str, Autotuner]:
    kernels.load()
    names = [module.name for module in pkgutil.iter_modules(kernels.__path__)]
    modules = [importlib.import_module(f"ggnet.kernels.{name}") for name in names]
    found = {k: v for m in modules for k, v in vars(m).items() if isinstance(v, Autotuner)}
    assert found
    return found


def test_every_operator_is_recorded():
    assert {case.op for case in CASES.values()} == set(OPERATORS)


@pytest.mark.parametrize("name", tuned_kernels())
def test_configurations_are_few(name):
    assert 1 < len(tuned_kernels()[name].configs) <= MAX_CONFIGS


@pytest.fixture
def choose(device, monkeypatch, tmp_path):
    """choose(launch): what a new process would measure; every choice takes the last one."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def run(launch: Launch, fresh: bool = True, **changes) -> tuple[int, triton.Config]:
        tuner = tuned_kernels()[launch.name]
        if fresh:
            tuner.cache.clear()
        timed = []

        def clock(_, quantiles):
            timed.append(tuner)
            return [1.0 / len(timed)] * len(quantiles)

        arguments = launch.arguments | changes
        with (
            mock.patch.object(tuner, "_do_bench", clock),
            mock.patch.object(tuner.fn, "run"),
            mock.patch.dict(tuner.__dict__),
        ):
            tuner.__dict__.pop("do_bench", None)
            tuner.run(grid=(1,), warmup=False, **arguments)
            return len(timed), tuner.best_config

    return run


def deformable() -> list[Launch]:
    return launches(CASES["actpoint_aggregate, bfloat16"], "sm_90")


@pytest.mark.parametrize("index", range(3), ids=["forward", "backward", "weight_grad"])
def test_a_machine_measures_once(choose, index):
    launch = deformable()[index]
    measured, config = choose(launch)
    assert measured == len(launch.configs)
    assert str(config) == str(launch.configs[-1])
    again, same = choose(launch)
    assert again == 0
    assert str(same) == str(config)


def test_images_of_other_sizes_share_a_choice(choose):
    launch = deformable()[0]
    choose(launch)
    changes = {"height": 96, "width": 160, "out_height": 96, "out_width": 160, "pixels": 61440}
    assert choose(launch, fresh=False, **changes)[0] == 0


def test_types_and_channels_have_their_own(choose):
    launch = deformable()[0]
    choose(launch)
    assert choose(launch, fresh=False, channels=64)[0] == len(launch.configs)
    half = torch.empty(0, dtype=torch.float16)
    assert choose(launch, fresh=False, features=half)[0] == len(launch.configs)

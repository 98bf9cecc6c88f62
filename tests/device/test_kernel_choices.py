"""Kernels that an environment variable chooses, beside those of any GPU on the same inputs."""

import ctypes

import pytest
import torch

from ggnet import ops

LIBC = ctypes.CDLL(None)  # os.environ does not reach what C++ reads, once the process runs
# batch, channels, size, outputs, kernel, spread of the offsets
SHAPES = [
    (1, 256, 11, 256, 5, 2.0),
    (2, 136, 9, 128, 3, 60.0),
    (1, 72, 7, 64, 7, 2.0),
]


ANY = {"GGNET_HOPPER": "0", "GGNET_BLOCK_SUMS": "0"}
CHOICES = {"hopper": {"GGNET_HOPPER": "1"}, "block sums": {**ANY, "GGNET_BLOCK_SUMS": "1"}}


def choose(variables):
    for name, value in variables.items():
        LIBC.setenv(name.encode(), value.encode(), 1)


@pytest.fixture(autouse=True)
def nothing_chosen(device):
    yield
    for name in ANY:
        LIBC.unsetenv(name.encode())


@pytest.fixture(params=CHOICES)
def choice(request):
    wanted = {"hopper": (9, 0), "block sums": (8, 0)}[request.param]
    found = torch.cuda.get_device_capability()
    if found < wanted or (request.param == "hopper" and found != wanted):
        pytest.skip(f"a GPU of compute capability {found} has no such kernels")
    return CHOICES[request.param]


def gradients(leaves, seed):
    out = ops.actpoint_aggregate(*leaves, relu=True)
    return [out.detach(), *torch.autograd.grad(out, leaves, seed)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_kinds_of_kernels_agree(device, choice, shape, dtype, deterministic):
    batch, channels, size, outputs, kernel, spread = shape
    generator = torch.Generator().manual_seed(5)

    def random(*sizes, scale=1.0):
        return (torch.randn(*sizes, generator=generator) * scale).to(device, dtype)

    taps = kernel * kernel
    points = random(batch, 3 * taps, size, size)
    points[:, : 2 * taps] *= spread
    leaves = [
        random(batch, channels, size, size),
        points,
        random(outputs, channels, kernel, kernel, scale=(channels * taps) ** -0.5),
        random(outputs),
    ]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    seed = random(batch, outputs, size, size)
    torch.use_deterministic_algorithms(deterministic)
    try:
        choose(choice)
        ours = gradients(leaves, seed)
        if deterministic:
            assert all(map(torch.equal, ours, gradients(leaves, seed)))
        choose(ANY)
        others = gradients(leaves, seed)
    finally:
        torch.use_deterministic_algorithms(False)
    # Sums in another order, then rounded to the type.
    bound = 4 * torch.finfo(dtype).eps
    for mine, other in zip(ours, others, strict=True):
        assert (mine.float() - other.float()).norm() <= bound * other.float().norm()


@pytest.mark.parametrize(
    ("dtype", "channels", "variables", "answer"),
    [
        (torch.bfloat16, 64, {}, "Hopper's"),
        (torch.float32, 64, {}, "those for any GPU: Hopper's compute bfloat16 and float16"),
        (torch.float16, 60, {}, "those for any GPU: Hopper's want channels in multiples of 8"),
        (torch.bfloat16, 64, {"GGNET_HOPPER": "0"}, "those for any GPU: GGNET_HOPPER=0"),
        (
            torch.bfloat16,
            64,
            CHOICES["block sums"],
            "those for any GPU: GGNET_HOPPER=0; the features' gradient summed in blocks first",
        ),
    ],
)
def test_resolve_says_which_kernels_run(device, dtype, channels, variables, answer):
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("no Hopper GPU")
    choose(variables)
    features = torch.empty(1, channels, 4, 4, dtype=dtype, device=device)
    assert ops.resolve("deform_conv2d", features).kernels.startswith(answer)
    assert ops.resolve("topk_peaks", features).kernels is None

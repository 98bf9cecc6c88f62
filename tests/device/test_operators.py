"""Every operator on the device, by every backend, against the reference in float64 on the CPU."""

import pytest
import torch
from tolerances import DEVICE, DEVICE_HEATMAP, DEVICE_LOSS, DEVICE_SCORE, DEVICE_TRIPLETS

from ggnet import ops, reference

DTYPES = list(DEVICE)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# batch, channels, height, width, outputs, kernel, spread of the offsets
SHAPES = [
    (1, 64, 16, 24, 256, 5, 2.0),
    (3, 17, 7, 5, 33, 3, 3.0),
    (2, 8, 5, 9, 70, 5, 60.0),
    (1, 40, 6, 7, 100, 7, 2.0),
    (1, 12, 5, 6, 300, 3, 2.0),
]
# channels, outputs, weight groups, offset groups
GROUPS = [
    (128, 160, 2, 1),
    (64, 140, 1, 16),
    (96, 16, 2, 6),
    (60, 20, 4, 6),  # whose boundaries cross
    (40, 80, 40, 40),  # depthwise
    (256, 256, 32, 1),
    (6, 600, 2, 3),
]


@pytest.fixture(autouse=True)
def exact_float32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(name, got, exact, dtype):
    got, exact = got.detach().cpu().double(), exact.detach()
    error = (got - exact).abs().nan_to_num(nan=torch.inf)
    scale = exact.abs().clamp_min(exact.square().mean().sqrt().item()).clamp_min(1e-30)
    assert (error / scale).max().item() < DEVICE[dtype], name


def both(operator, exact, tensors, dtype, device, layout):
    """Values and gradients of the operator on the device and of the reference in float64."""
    leaves = []
    for t in tensors:
        t = t.to(dtype)
        leaves.append(t.contiguous(memory_format=layout) if t.dim() == 4 else t)
    theirs = [t.double().requires_grad_() for t in leaves]
    ours = [t.to(device).requires_grad_() for t in leaves]
    out, expected = operator(*ours), exact(*theirs)
    seed = randn(*expected.shape, seed=99).to(dtype)
    out.backward(seed.to(device))
    expected.backward(seed.double())
    close("output", out, expected, dtype)
    for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        close(f"gradient {i}", mine.grad, other.grad, dtype)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["rows", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_actpoint_aggregate(backend, device, shape, dtype, layout):
    b, c, h, w, o, k, spread = shape
    points = randn(b, 3 * k * k, h, w, seed=1)
    points[:, : 2 * k * k] *= spread
    tensors = [
        randn(b, c, h, w),
        points,
        randn(o, c, k, k, seed=2) * (c * k * k) ** -0.5,
        randn(o, seed=3),
        randn(b, 2 * k * k, h, w, seed=4),
    ]
    both(ops.actpoint_aggregate, reference.actpoint_aggregate, tensors, dtype, device, layout)


def deform_tensors(channels=24, outputs=16, groups=1, offset_groups=1):
    each = channels // groups
    return [
        randn(2, channels, 9, 11),
        randn(2, 18 * offset_groups, 6, 7, seed=1),
        randn(outputs, each, 3, 3, seed=2) * (each * 9) ** -0.5,
        randn(outputs, seed=3),
        randn(2, 9 * offset_groups, 6, 7, seed=4),
    ]


def deform_call(function):
    return lambda x, offset, weight, bias, mask=None: function(
        x, offset, weight, bias, stride=(2, 2), padding=(3, 3), dilation=(2, 2), mask=mask
    )


@pytest.mark.parametrize("mask", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_deform_conv2d(backend, device, dtype, mask):
    both(
        deform_call(ops.deform_conv2d),
        deform_call(reference.deform_conv2d),
        deform_tensors()[: 5 if mask else 4],
        dtype,
        device,
        torch.channels_last,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", GROUPS, ids=str)
def test_deform_conv2d_with_groups(backend, device, sizes, dtype):
    both(
        deform_call(ops.deform_conv2d),
        deform_call(reference.deform_conv2d),
        deform_tensors(*sizes),
        dtype,
        device,
        torch.channels_last,
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_replaced_torchvision(backend, device, dtype):
    vision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    with ops.replace_torchvision(strict=True):
        both(
            deform_call(vision.ops.deform_conv2d),
            deform_call(reference.deform_conv2d),
            deform_tensors(),
            dtype,
            device,
            torch.channels_last,
        )


def test_replaced_torchvision_under_autocast(device):
    vision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    x, *others = deform_tensors()
    x, others = x.half().to(device), [t.float().to(device) for t in others]
    exact = deform_call(reference.deform_conv2d)(x.double(), *(t.double() for t in others))
    with ops.replace_torchvision(strict=True), torch.autocast(device.type, torch.float16):
        found = deform_call(vision.ops.deform_conv2d)(x, *others)
    assert found.dtype == torch.float16
    close("output", found, exact.cpu(), torch.float16)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["rows", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hna_loss(backend, device, dtype, layout):
    logits = (4 * randn(2, 37, 19, 23)).to(dtype).contiguous(memory_format=layout)
    target = randn(2, 37, 19, 23, seed=1).tanh().float()
    target[target > 0.95], target[target < -0.95] = 1.0, -1.0
    theirs, ours = logits.double().requires_grad_(), logits.to(device).requires_grad_()
    loss = ops.hna_loss(ours, target.to(device))
    exact = reference.hna_loss(theirs, target.double())
    loss.backward()
    exact.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=DEVICE_LOSS)
    close("gradient", ours.grad, theirs.grad, dtype)
    again = ops.hna_loss(ours.detach(), target.to(device))
    assert again.item() == loss.item()


def test_draw_heatmaps(backend, device):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 19, 33)
    centers = torch.stack(
        [torch.randint(-1, n + 1, (200,), generator=generator) for n in shape], 1
    ).int()
    radii = torch.randint(-1, 7, (200,), generator=generator).int()
    signs = (torch.randint(0, 2, (200,), generator=generator) * 2 - 1).int()
    arguments = (centers, radii, signs)
    got = ops.draw_heatmaps(*(t.to(device) for t in arguments), shape)
    exact = reference.draw_heatmaps(*arguments, shape)
    torch.testing.assert_close(got.cpu(), exact.float(), **DEVICE_HEATMAP)
    order = torch.randperm(200, generator=generator)
    assert torch.equal(got, ops.draw_heatmaps(*(t[order].to(device) for t in arguments), shape))


@pytest.mark.parametrize("layout", LAYOUTS, ids=["rows", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "k"), [((2, 117, 64, 80), 100), ((3, 5, 9, 11), 700)])
def test_topk_peaks(backend, device, shape, k, dtype, layout):
    logits = randn(*shape).to(dtype).contiguous(memory_format=layout)
    got = ops.topk_peaks(logits.to(device), k)
    exact = reference.topk_peaks(logits.double(), k)
    torch.testing.assert_close(got[0].cpu().double(), exact[0], rtol=DEVICE_SCORE, atol=0)
    for mine, other in zip(got[1:], exact[1:], strict=True):
        assert torch.equal(mine.cpu(), other)


def hoi_maps(device, seed=0):
    """A network's outputs for 2 images, 6 verbs, 4 objects."""

    def maps(channels, scale):
        return (randn(2, channels, 16, 20, seed=seed + channels) * scale).float().to(device)

    return {
        "heatmap": maps(4, 3.0),
        "size": maps(2, 4.0).abs(),
        "center_frac": maps(2, 1.0).sigmoid(),
        "interaction": maps(6, 3.0),
        "human_offset": maps(12, 5.0),
        "object_offset": maps(12, 5.0),
    }


@pytest.mark.parametrize("rule", ["product", "distance"])
def test_decode_hoi(backend, device, rule):
    valid = randn(6, 4) > 0
    got = ops.decode_hoi(hoi_maps(device), valid.to(device), k=30, rule=rule)
    exact = reference.decode_hoi(hoi_maps("cpu"), valid, k=30, rule=rule)
    torch.testing.assert_close(got.scores.cpu(), exact.scores, **DEVICE_TRIPLETS)


def test_deterministic_algorithms_give_the_same_bits(backend, device):
    problems = {
        ops.actpoint_aggregate: [
            randn(2, 64, 20, 20),
            randn(2, 75, 20, 20, seed=1) * 3,
            randn(64, 64, 5, 5, seed=2) * 0.03,
        ],
        deform_call(ops.deform_conv2d): deform_tensors(60, 20, 4, 6),
    }
    torch.use_deterministic_algorithms(True)
    try:
        for operator, tensors in problems.items():
            results = []
            for _ in range(3):
                leaves = [t.float().to(device).requires_grad_() for t in tensors]
                operator(*leaves).square().sum().backward()
                results.append([leaf.grad for leaf in leaves])
            for other in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_mask_that_is_a_view_bounds_deterministic_sums(backend, device):
    input, *others = (t.float().to(device) for t in deform_tensors()[:4])
    view = torch.full((1, 1, 1, 1), 4096.0, device=device).expand(2, 9, 6, 7)
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for mask in (view, view.contiguous()):
            leaf = input.clone().requires_grad_()
            deform_call(ops.deform_conv2d)(leaf, *others, mask).sum().backward()
            gradients.append(leaf.grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*gradients)

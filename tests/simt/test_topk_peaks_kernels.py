"""The CUDA text of the peak extraction, executed, against the reference."""

import numpy as np
import pytest
import torch
from arrays import ORDERS, TYPES, rounded, to_array
from tolerances import SCORE

from ggnet import reference


def extract(simt, logits, dtype, k, kernel_size=3, channels_last=False):
    b, v, h, w = logits.shape
    array = to_array(logits.permute(0, 2, 3, 1) if channels_last else logits, dtype)
    scores = np.full((b, k), np.nan, np.float32)
    at = [np.full((b, k), -7, np.int64) for _ in range(3)]
    simt.topk_peaks(
        dtype, array, scores, *at, batch=b, channels=v, height=h, width=w,
        channels_last=channels_last, k=k, kernel_size=kernel_size,
    )  # fmt: skip
    return torch.from_numpy(scores), *map(torch.from_numpy, at)


def check(simt, logits, dtype, k, kernel_size=3, channels_last=False):
    exact = reference.topk_peaks(rounded(logits, dtype), k, kernel_size)
    for order in ORDERS:
        simt.configure(workers=2, **order)
        got = extract(simt, logits, dtype, k, kernel_size, channels_last)
        torch.testing.assert_close(got[0].double(), exact[0], rtol=SCORE, atol=0)
        for mine, theirs in zip(got[1:], exact[1:], strict=True):
            assert torch.equal(mine, theirs)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "k", "kernel_size"),
    [
        ((1, 3, 9, 11), 10, 3),
        ((3, 5, 8, 16), 100, 3),
        ((2, 2, 7, 5), 20, 5),
        ((1, 4, 6, 8), 200, 1),  # more than there are cells
        ((1, 1, 1, 1), 1, 3),
        ((2, 9, 31, 33), 7, 7),
        ((1, 40, 33, 35), 100, 3),  # several blocks
    ],
)
def test_equals_the_reference(simt, shape, k, kernel_size, dtype, channels_last):
    check(simt, noise(*shape), dtype, k, kernel_size, channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("k", [1, 100, 1024])
def test_ties_and_plateaus(simt, k, channels_last):
    plateau = torch.zeros(2, 6, 40, 41)  # every cell a peak: lists fill with every step
    plateau[1, 2, 5, 6] = 1.0
    check(simt, plateau, "float32", k, channels_last=channels_last)
    check(simt, -plateau, "float32", k, channels_last=channels_last)
    few_values = torch.randint(
        -1, 2, (2, 6, 40, 41), generator=torch.Generator().manual_seed(0)
    ).float()
    check(simt, few_values, "float32", k, channels_last=channels_last)


@pytest.mark.parametrize("channels_last", [False, True])
def test_rising_maps_defeat_every_threshold(simt, channels_last):
    rising = torch.arange(6 * 40 * 41.0).view(1, 6, 40, 41)
    check(simt, rising, "float32", 64, kernel_size=1, channels_last=channels_last)
    check(simt, -rising, "float32", 64, kernel_size=1, channels_last=channels_last)


def test_minus_zero_is_zero(simt):
    logits = torch.full((1, 1, 5, 5), -5.0)
    logits[0, 0, 0, 0], logits[0, 0, 4, 4] = -0.0, 0.0
    scores, _, ys, _ = extract(simt, logits, "float32", 2)
    assert scores.tolist() == [[0.5, 0.5]]
    assert ys.tolist() == [[0, 4]]


def test_nan_and_minus_infinity_are_no_peaks(simt):
    logits = torch.full((1, 1, 6, 6), -torch.inf)
    logits[0, 0, 2, 2], logits[0, 0, 2, 3], logits[0, 0, 5, 5] = torch.nan, 1.0, torch.inf
    logits[0, 0, 0, 0] = -torch.nan
    scores, channels, ys, xs = extract(simt, logits, "float32", 4)
    assert ys.tolist() == [[5, 2, 0, 0]]
    assert xs.tolist() == [[5, 3, 0, 0]]
    assert scores[0, 0] == 1
    assert scores[0, 2:].tolist() == [0, 0]
    assert channels.tolist() == [[0] * 4]


@pytest.mark.slow
def test_a_real_map(simt):
    check(simt, noise(1, 117, 128, 128), "bfloat16", 100)
    check(simt, noise(1, 117, 128, 128), "float32", 1000, channels_last=True)

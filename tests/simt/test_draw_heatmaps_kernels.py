"""The CUDA text of the heatmaps, executed, against the reference in float64."""

import numpy as np
import pytest
import torch
from arrays import ORDERS
from tolerances import EMULATED_HEATMAP, LARGE_HEATMAP

from ggnet import reference


def points(count, shape, seed=0, largest=6):
    """Centers, some of them outside of the map, radii, some negative, and signs."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high, *size):
        return torch.randint(low, high, size, generator=generator, dtype=torch.int32)

    centers = torch.stack([integers(-1, size + 1, count) for size in shape], 1)
    return centers, integers(-1, largest, count), integers(0, 2, count) * 2 - 1


def draw(simt, centers, radii, signs, shape, factors=(6.0, 6.0)):
    b, v, h, w = shape
    out = np.zeros(shape, np.float32)
    simt.draw_heatmaps(
        centers.contiguous().numpy(), radii.numpy(), signs.numpy(), out, points=len(radii),
        batch=b, channels=v, height=h, width=w,
        positive_factor=factors[0], negative_factor=factors[1],
    )  # fmt: skip
    return torch.from_numpy(out)


@pytest.mark.parametrize("factors", [(6.0, 6.0), (8.0, 2.0)])
@pytest.mark.parametrize(
    "shape", [(1, 1, 16, 16), (3, 2, 7, 19), (2, 3, 5, 4), (1, 2, 2, 40), (1, 1, 33, 1)], ids=str
)
@pytest.mark.parametrize("count", [0, 1, 40])
def test_equals_the_reference_in_any_order(simt, count, shape, factors):
    arguments = points(count, shape)
    exact = reference.draw_heatmaps(
        *arguments, shape, positive_factor=factors[0], negative_factor=factors[1]
    ).double()
    results = []
    for order in ORDERS:
        simt.configure(workers=2, **order)
        results.append(draw(simt, *arguments, shape, factors))
    torch.testing.assert_close(results[0].double(), exact, **EMULATED_HEATMAP)
    assert ((results[0] == 1) == (exact == 1)).all()
    assert ((results[0] == -1) == (exact == -1)).all()
    assert all(torch.equal(result, results[0]) for result in results)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(simt, *(t[shuffled] for t in arguments), shape, factors), results[0])


def test_windows_larger_than_the_map_and_values_that_vanish(simt):
    centers = torch.tensor([[0, 0, 2, 3], [0, 0, 0, 0]], dtype=torch.int32)
    radii = torch.tensor([2**31 - 1, 40], dtype=torch.int32)
    for signs in ([1, 1], [-1, -1], [1, -1]):
        signs = torch.tensor(signs, dtype=torch.int32)
        for factors in ((6.0, 6.0), (1e6, 1e6)):
            got = draw(simt, centers, radii, signs, (1, 1, 5, 6), factors)
            exact = reference.draw_heatmaps(
                centers, radii, signs, (1, 1, 5, 6),
                positive_factor=factors[0], negative_factor=factors[1],
            )  # fmt: skip
            torch.testing.assert_close(got.double(), exact.double(), **LARGE_HEATMAP)
            assert not torch.signbit(got[got == 0]).any()


@pytest.mark.parametrize("factor", [25.0, 30.0, 80.0])
def test_positives_cover_negatives_where_their_gaussian_vanishes(simt, factor):
    centers = torch.tensor([[0, 0, 5, 5], [0, 0, 5, 9]], dtype=torch.int32)
    radii, signs = (torch.tensor(v, dtype=torch.int32) for v in ([4, 4], [1, -1]))
    shape = (1, 1, 11, 14)
    got = draw(simt, centers, radii, signs, shape, (factor, 6.0))
    exact = reference.draw_heatmaps(centers, radii, signs, shape, positive_factor=factor)
    torch.testing.assert_close(got.double(), exact.double(), **LARGE_HEATMAP)
    assert (got[0, 0, 1:10, 1:10] > 0).all()
    assert (got[0, 0, 1:10, 10:14] < 0).all()

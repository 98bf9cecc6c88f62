import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_testing import assert_same_bits, generator
from tolerances import HEATMAP

from ggnet import ops, reference

SHAPE = (2, 3, 13, 9)


def points(*rows):
    """centers, radii, signs from rows of (batch, channel, y, x, radius, sign)."""
    table = torch.tensor(rows, dtype=torch.int32).reshape(-1, 6)
    return table[:, :4].contiguous(), table[:, 4].contiguous(), table[:, 5].contiguous()


def random_points(count, seed, margin=1):
    random = generator(seed)
    columns = [torch.randint(-margin, size + margin, (count,), generator=random) for size in SHAPE]
    columns.append(torch.randint(-1, 6, (count,), generator=random))
    columns.append(torch.randint(0, 2, (count,), generator=random) * 2 - 1)
    return points(*torch.stack(columns, dim=1).tolist())


@pytest.mark.interpreted({"seed": 0}, {"seed": 1})
@pytest.mark.parametrize("count", [0, 1, 7, 60])
@pytest.mark.parametrize("seed", range(5))
def test_matches_the_reference(count, seed):
    arguments = random_points(count, seed)
    for factors in ({}, {"positive_factor": 8.0, "negative_factor": 2.0}):
        got = ops.draw_heatmaps(*arguments, SHAPE, **factors)
        want = reference.draw_heatmaps(*arguments, SHAPE, **factors)
        assert got.dtype == torch.float32
        assert got.shape == SHAPE
        assert (got - want).abs().max() <= HEATMAP


@pytest.mark.interpreted
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (1, 1, 1, 1), (1, 2, 40, 1)])
def test_odd_shapes(shape):
    arguments = points((0, 0, 0, 0, 2, 1), (0, 1, 3, 0, 1, -1))
    got = ops.draw_heatmaps(*arguments, shape)
    assert got.shape == shape
    assert torch.allclose(got, reference.draw_heatmaps(*arguments, shape), atol=HEATMAP)


@pytest.mark.interpreted
def test_a_gaussian_by_hand():
    map = ops.draw_heatmaps(*points((0, 0, 3, 4, 1, 1)), (1, 1, 7, 9))[0, 0]
    side, corner = torch.exp(torch.tensor([-0.5, -1.0]) / 0.5**2)  # sigma = 3 / 6
    expected = torch.zeros(7, 9)
    expected[2:5, 3:6] = torch.tensor(
        [[corner, side, corner], [side, 1, side], [corner, side, corner]]
    )
    assert torch.allclose(map, expected, atol=HEATMAP)


@pytest.mark.interpreted
def test_radius_zero_is_one_cell():
    map = ops.draw_heatmaps(*points((0, 0, 2, 2, 0, 1), (0, 0, 4, 4, 0, -1)), (1, 1, 6, 6))
    assert map[0, 0, 2, 2] == 1
    assert map[0, 0, 4, 4] == -1
    assert map.count_nonzero() == 2


@pytest.mark.interpreted
def test_positives_cover_negatives():
    positive, negative = (0, 0, 6, 4, 2, 1), (0, 0, 6, 6, 3, -1)
    map = ops.draw_heatmaps(*points(negative, positive), SHAPE)[0, 0]
    alone = ops.draw_heatmaps(*points(positive), SHAPE)[0, 0]
    ring = ops.draw_heatmaps(*points(negative), SHAPE)[0, 0]
    assert torch.equal(map, torch.where(alone > 0, alone, ring))
    assert map[6, 6] > 0  # the negative's center lies in the positive's window
    assert map[6, 8] < 0


@pytest.mark.interpreted
@pytest.mark.parametrize("factor", [25.0, 26.0, 30.0, 80.0, 1e6])
def test_positives_cover_negatives_where_their_gaussian_vanishes(factor):
    """Away from a sharp positive's center float32 has no number for it; its window reaches on."""
    points_ = points((0, 0, 5, 5, 4, 1), (0, 0, 5, 9, 4, -1))
    map = ops.draw_heatmaps(*points_, (1, 1, 11, 14), positive_factor=factor)
    want = reference.draw_heatmaps(*points_, (1, 1, 11, 14), positive_factor=factor)
    assert (map - want).abs().max() <= HEATMAP
    assert (map[0, 0, 1:10, 1:10] > 0).all()
    assert (map[0, 0, 1:10, 10:14] < 0).all()
    assert map[0, 0, 1, 1] < 1e-30
    assert map.count_nonzero() == 9 * 13


@pytest.mark.interpreted({"shape": (1, 1, 5, 40)}, {"shape": (1, 2, 40, 5)})
@pytest.mark.parametrize(
    "shape", [(1, 1, 5, 40), (1, 1, 1, 33), (1, 2, 40, 5), (2, 1, 3, 64)], ids=str
)
def test_windows_wider_than_high_and_higher_than_wide(shape):
    height, width = shape[2:]
    rows = [
        (shape[0] - 1, shape[1] - 1, y, x, radius, sign)
        for y, x in ((0, 0), (height // 2, width // 3), (height - 1, width - 1), (0, width - 2))
        for radius, sign in ((min(height, width), 1), (max(height, width) // 2, -1))
    ]
    for some in (rows, rows[2:4], rows[1::2]):
        got = ops.draw_heatmaps(*points(*some), shape)
        assert (got - reference.draw_heatmaps(*points(*some), shape)).abs().max() <= HEATMAP


@pytest.mark.interpreted
def test_windows_are_cut_at_the_border():
    big = ops.draw_heatmaps(*points((0, 0, 15, 15, 4, 1)), (1, 1, 31, 31))[0, 0]
    for y, x in ((0, 0), (0, 6), (12, 8)):
        map = ops.draw_heatmaps(*points((0, 0, y, x, 4, 1)), (1, 1, 13, 9))[0, 0]
        assert torch.equal(map, big[15 - y : 28 - y, 15 - x : 24 - x])


@pytest.mark.interpreted
def test_a_radius_far_beyond_the_map():
    map = ops.draw_heatmaps(*points((0, 0, 1, 1, 2**31 - 1, 1)), (1, 1, 4, 4))
    assert torch.equal(map, torch.ones(1, 1, 4, 4))


@pytest.mark.interpreted
def test_points_outside_of_the_map_are_left_out():
    outside = [
        (-1, 0, 2, 2, 3, 1),
        (2, 0, 2, 2, 3, 1),
        (0, -1, 2, 2, 3, 1),
        (0, 3, 2, 2, 3, 1),
        (0, 0, -1, 2, 3, 1),
        (0, 0, 13, 2, 3, -1),
        (0, 0, 2, 9, 3, 1),
        (0, 0, 2, -(2**31), 3, -1),
        (0, 0, 2, 2, -1, 1),
    ]
    assert not ops.draw_heatmaps(*points(*outside), SHAPE).any()


row = st.tuples(
    *(st.integers(0, size - 1) for size in (1, 2, 13, 9)),
    st.integers(0, 5),
    st.sampled_from([-1, 1]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_annotations_in_any_order_give_the_same_map(rows, random):
    map = ops.draw_heatmaps(*points(*rows), SHAPE)
    shuffled = rows.copy()
    random.shuffle(shuffled)
    assert torch.equal(map, ops.draw_heatmaps(*points(*shuffled), SHAPE))
    for batch, channel, y, x, _, sign in rows:
        if sign > 0:
            assert map[batch, channel, y, x] == 1
        else:
            assert map[batch, channel, y, x] == -1 or map[batch, channel, y, x] > 0


def test_same_bits_for_any_number_of_threads():
    arguments = random_points(200, 3)
    assert_same_bits(lambda: [ops.draw_heatmaps(*arguments, (2, 64, 65, 66))])


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"centers": torch.zeros(2, 3, dtype=torch.int32)}, ValueError, r"centers .*\(2, 4\)"),
        ({"radii": torch.zeros(3, dtype=torch.int32)}, ValueError, r"radii .*\(2,\)"),
        ({"signs": torch.ones(2)}, TypeError, "signs .*float32.*int32"),
        ({"centers": torch.zeros(2, 4).long()}, TypeError, "centers .*int64.*int32"),
        ({"shape": (1, 2, 3)}, ValueError, "shape is"),
        ({"shape": (1, 2, 3, -4)}, ValueError, r"shape\[3\] is -4"),
        ({"shape": (1 << 10, 1 << 10, 1 << 10, 4)}, ValueError, r"2\*\*31"),
        ({"positive_factor": 0.0}, ValueError, "positive_factor is 0"),
        ({"negative_factor": float("nan")}, ValueError, "negative_factor is nan"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    centers, radii, signs = points((0, 0, 1, 1, 1, 1), (0, 0, 2, 2, 1, -1))
    arguments = {"centers": centers, "radii": radii, "signs": signs, "shape": SHAPE}
    with pytest.raises(error, match=message):
        ops.draw_heatmaps(**(arguments | change))

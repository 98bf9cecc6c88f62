"""Compact targets: what is drawn where, in sub-pixel and in the published form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggnet.data.targets import MIN_OVERLAP, build_targets, gaussian_radius, original_radius

GRID = (32, 40)  # height, width
VALID = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0], [0, 0, 1]], dtype=bool)  # (V=4, objects=3)


def targets(boxes, labels, pairs, compat="none", **options):
    return build_targets(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(pairs, np.int64).reshape(-1, 3),
        VALID,
        GRID,
        compat,
        **options,
    )


HUMAN, DOG = [4.2, 6.4, 10.8, 20.8], [20.0, 8.0, 31.0, 15.0]  # centers (7.5, 13.6), (25.5, 11.5)


def test_objects_and_interaction_at_their_places():
    out = targets([HUMAN, DOG], [0, 1], [[0, 1, 2]])
    assert out["objects"].tolist() == [[0, 13, 7], [1, 11, 25]]  # class, y, x
    np.testing.assert_allclose(out["centers_frac"], [[0.5, 0.6], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(out["sizes"], [[6.6, 14.4], [11, 7]], atol=1e-6)
    assert out["interactions"].tolist() == [[2, 12, 16]]  # midpoint (16.5, 12.55)
    np.testing.assert_array_equal(out["human_offsets"], [[16 - 7, 12 - 13]])
    np.testing.assert_array_equal(out["object_offsets"], [[16 - 25, 12 - 11]])
    assert out["objects"].dtype == out["interaction_radii"].dtype == np.int32
    assert out["sizes"].dtype == out["human_offsets"].dtype == np.float32


def test_the_center_is_recovered_exactly_from_cell_and_fraction():
    out = targets([HUMAN, DOG], [0, 1], [[0, 1, 2]])
    center = out["objects"][:, :0:-1] + out["centers_frac"]
    half = out["sizes"] / 2
    np.testing.assert_allclose(np.hstack([center - half, center + half]), [HUMAN, DOG], atol=1e-5)


def test_hard_negatives_are_the_other_valid_verbs_at_that_cell():
    out = targets([HUMAN, DOG], [0, 1], [[0, 1, 2]])
    assert out["hard_negatives"].tolist() == [[0, 12, 16], [1, 12, 16]]


def test_a_verb_annotated_at_the_same_cell_is_no_hard_negative():
    same_cell = [HUMAN, DOG], [0, 1], [[0, 1, 2], [0, 1, 1]]
    assert targets(*same_cell)["hard_negatives"].tolist() == [[0, 12, 16]]
    # another pair with crossing boxes shares the midpoint
    mirrored_human, mirrored_ball = [22.2, 4.4, 28.8, 18.8], [2.0, 10.0, 13.0, 17.0]
    out = targets([HUMAN, DOG, mirrored_human, mirrored_ball], [0, 1, 0, 2], [[0, 1, 2], [2, 3, 0]])
    assert out["interactions"][:, 1:].tolist() == [[12, 16], [12, 16]]
    assert out["hard_negatives"].tolist() == [[1, 12, 16], [3, 12, 16]]


@pytest.mark.parametrize("radius", [0, 2, 3])
@pytest.mark.parametrize("apart", [0, 1, 2, 3, 4])
def test_a_verb_annotated_nearby_is_no_hard_negative(apart, radius):
    """The same two drawn again, a few cells away, for another verb."""
    again = [[x + apart, y, z + apart, w] for x, y, z, w in (HUMAN, DOG)]
    boxes, pairs = [HUMAN, DOG, *again], [[0, 1, 2], [2, 3, 1]]
    negatives = targets(boxes, [0, 1, 0, 1], pairs, hard_negative_radius=radius)["hard_negatives"]
    expected = {(0, 12, 16), (0, 12, 16 + apart)}
    if apart > radius:
        expected |= {(1, 12, 16), (2, 12, 16 + apart)}
    assert {tuple(row) for row in negatives.tolist()} == expected
    published = targets(boxes, [0, 1, 0, 1], pairs, "original")["hard_negatives"].tolist()
    assert len(published) == (4 if apart else 1)


def test_boxes_and_pairs_outside_the_crop_have_no_targets():
    outside = [-30, 5, -10, 20]
    out = targets([HUMAN, outside], [0, 1], [[0, 1, 2]])
    assert out["objects"].tolist() == [[0, 13, 7]]
    assert all(len(out[name]) == 0 for name in out if name.startswith(("inter", "human", "hard")))
    # the published code keeps the pair, with the box squeezed onto the border
    out = targets([HUMAN, outside], [0, 1], [[0, 1, 2]], "original")
    assert len(out["objects"]) == 1
    assert out["interactions"].tolist() == [[2, 12, 3]]


@pytest.mark.parametrize("side", [0.25, 0.24])  # cells, of the box that the crop leaves
def test_a_box_of_which_hardly_anything_is_left_has_no_targets(side):
    for sliver in ([-9, 5, side, 20], [5, GRID[0] - side, 9, 60]):
        out = targets([HUMAN, sliver], [0, 1], [[0, 1, 2]])
        assert len(out["objects"]) == 1 + (side >= 0.25)
        assert len(out["interactions"]) == (side >= 0.25)


def test_a_box_cut_by_the_border_is_clipped():
    out = targets([[30, -8, 60, 16]], [0], [])
    np.testing.assert_allclose(out["sizes"], [[10, 16]])
    assert out["objects"].tolist() == [[0, 8, 35]]


def test_published_targets_are_truncated_to_cells():
    out = targets([HUMAN, DOG], [0, 1], [[0, 1, 2]], "original")
    assert out["sizes"].tolist() == [[6, 14], [11, 7]]
    assert out["centers_frac"].tolist() == [[0, 0], [0.5, 0.5]]
    assert out["objects"].tolist() == [[0, 13, 7], [1, 11, 25]]
    assert (
        out["object_radii"].tolist()
        == original_radius(np.array([6, 11]), np.array([14, 7])).tolist()
    )


def test_published_targets_at_the_border():
    """Clipped to the last cell's index; what is left of one cell is visible, of none is not."""
    height, width = GRID
    whole, thin = [-9, -9, 99, 99], [4, 6, 5, 7]
    out = targets([whole, thin, [4, 6, 4.9, 20]], [0, 1, 1], [], "original")
    assert out["sizes"].tolist() == [[width - 1, height - 1], [1, 1]]
    assert out["object_radii"].tolist()[1] == 0


def test_an_image_without_annotations():
    out = targets([], [], [])
    assert {name: len(values) for name, values in out.items()} == dict.fromkeys(out, 0)
    assert out["hard_negatives"].shape == out["interactions"].shape == (0, 3)


@pytest.mark.parametrize(("size", "radius"), [(10, 2), (20, 5), (40, 10), (128, 34)])
def test_published_radius(size, radius):
    sides = np.array([size])
    assert original_radius(sides, sides).tolist() == [radius]
    assert abs(int(gaussian_radius(sides, sides)[0]) - radius) <= radius * 0.2


@given(width=st.floats(0, 200), height=st.floats(0, 200))
def test_corners_may_move_by_the_radius(width, height):
    radius = int(gaussian_radius(np.array([width]), np.array([height]))[0])
    assert radius >= 0
    if radius:
        area = width * height
        inward = (width - 2 * radius) * (height - 2 * radius) / area
        outward = area / ((width + 2 * radius) * (height + 2 * radius))
        shared = (width - radius) * (height - radius)
        assert min(inward, outward, shared / (2 * area - shared)) >= MIN_OVERLAP - 1e-9

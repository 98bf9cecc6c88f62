import pytest
import torch
from op_testing import assert_same_bits, generator, isas

from ggnet import ops, reference

RULES = ("product", "distance")


def peaks(*rows):
    """Peaks of one image from rows of (score, channel, y, x)."""
    columns = list(zip(*rows, strict=True)) if rows else [[], [], [], []]
    return (
        torch.tensor([columns[0]], dtype=torch.float32),
        *(torch.tensor([column], dtype=torch.int64) for column in columns[1:]),
    )


def random_case(seed, dtype=torch.float32, batch=2, counts=(20, 11, 13), side=9):
    random = generator(seed)

    def some(count, channels):
        scores = torch.rand(batch, count, generator=random, dtype=dtype)
        scores[scores < 0.1] = 0
        return (
            scores,
            *(
                torch.randint(0, high, (batch, count), generator=random)
                for high in (channels, side, side)
            ),
        )

    interactions, humans, objects = (
        some(count, high) for count, high in zip(counts, (6, 1, 5), strict=True)
    )
    human = torch.randn(batch, counts[0], 2, generator=random, dtype=dtype) * 3
    object_ = torch.randint(-3, 4, (batch, counts[0], 2), generator=random).to(dtype)  # ties
    valid_pairs = torch.rand(6, 5, generator=random) > 0.6
    return interactions, humans, objects, human, object_, valid_pairs


def with_persons_among_the_objects(case):
    """The case, its humans being objects of class 0 too, as peaks of one heatmap are."""
    interactions, humans, objects, *rest = case
    objects = tuple(torch.cat(parts, dim=1) for parts in zip(objects, humans, strict=True))
    return interactions, humans, objects, *rest


def as_one_list(case):
    """The case with its objects for humans as well, as an external detector's boxes are."""
    interactions, _, objects, *rest = case
    return interactions, objects, objects, *rest


def assert_same_matches(case, rule, **identity):
    got = ops.match_points(*case, rule=rule, **identity)
    want = reference.match_points(*case, rule=rule, **identity)
    for name, one, other in zip(("human", "object", "score"), got, want, strict=True):
        assert torch.equal(one, other), name


@pytest.mark.interpreted({"dtype": torch.float32, "isa": "portable"})
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_the_reference(dtype, rule, isa, monkeypatch):
    monkeypatch.setenv("GGNET_CPU_ISA", isa)
    for seed in range(20):
        case = list(random_case(seed, dtype))
        case[3][0, 0, 0], case[4][1, 3, 1] = torch.nan, torch.inf
        case[3][1, 5, 1] = -1e30
        assert_same_matches(case, rule)
        assert_same_matches([*case[:5], None], rule)


@pytest.mark.interpreted({"dtype": torch.float32, "isa": "portable"})
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_persons_among_the_objects_match_the_reference(dtype, rule, isa, monkeypatch):
    monkeypatch.setenv("GGNET_CPU_ISA", isa)
    for seed in range(6):
        case = random_case(seed, dtype, side=4)  # cells repeat, within a class too
        for table in (case[5], None):
            peaks = with_persons_among_the_objects([*case[:5], table])
            rows = as_one_list([*case[:5], table])
            assert_same_matches(peaks, rule)
            assert_same_matches(peaks, rule, allow_same=True)
            assert_same_matches(rows, rule, one_list=True)
            assert_same_matches(rows, rule, one_list=True, allow_same=True)


def all_pairs(case, rule, same):
    """(B, K, humans, objects): the product, or minus the sum, of each pair; -inf: not allowed."""
    (scores, verbs, ys, xs), humans, objects, *offsets, valid_pairs = case
    qualities = []
    for candidates, offset in zip((humans, objects), offsets, strict=True):
        dy = (ys - offset[..., 0])[:, :, None] - candidates[2][:, None]
        dx = (xs - offset[..., 1])[:, :, None] - candidates[3][:, None]
        s = candidates[0][:, None]
        if rule == "product":
            qualities.append(s / ((dy.abs() + 1) * (dx.abs() + 1)))
        else:
            qualities.append(torch.where(s > 0, -(dy.abs() + dx.abs()) / s, float("-inf")))
    human, object_ = qualities[0][:, :, :, None], qualities[1][:, :, None]
    pairs = human * object_ if rule == "product" else human + object_
    wrong = ~valid_pairs[verbs[:, :, None], objects[1][:, None]][:, :, None] | same[:, None]
    wrong = wrong | (humans[0] == 0)[:, None, :, None] | (objects[0] == 0)[:, None, None]
    return pairs.masked_fill(wrong, float("-inf"))


@pytest.mark.parametrize("rule", RULES)
def test_the_best_pair_of_two_detections_is_found(rule):
    together = 0
    for seed in range(20):
        case = list(random_case(seed, torch.float64))
        case[4] = case[4] + torch.randn(
            case[4].shape, generator=generator(seed), dtype=torch.float64
        )
        case[3] = case[4] + 0.3 * case[3]  # both offsets point to much the same place
        case[5][:, 0] = True
        peaks, rows = with_persons_among_the_objects(case), as_one_list(case)
        cells = [torch.stack(kind[1:], dim=2) for kind in peaks[1:3]]
        for case, identity, same in (
            (peaks, {}, (cells[0][:, :, None] == cells[1][:, None]).all(dim=3)),
            (rows, {"one_list": True}, torch.eye(13, dtype=torch.bool).expand(2, -1, -1)),
        ):
            human, object_, score = ops.match_points(*case, rule=rule, **identity)
            qualities = all_pairs(case, rule, same).flatten(2)
            best = qualities.amax(dim=2)
            found = best > -torch.inf
            assert torch.equal((human >= 0) & (object_ >= 0), found)
            pair = human * case[2][0].shape[1] + object_
            mine = qualities.gather(2, pair.clamp(min=0)[:, :, None])[:, :, 0]
            torch.testing.assert_close(mine[found], best[found], rtol=1e-14, atol=0)
            exact = case[0][0] * case[1][0].gather(1, human.clamp(min=0))
            exact = exact * case[2][0].gather(1, object_.clamp(min=0))
            torch.testing.assert_close(score, torch.where(found, exact, 0))
            free = ops.match_points(*case, rule=rule, allow_same=True, **identity)
            together += ((free[0] != human) | (free[1] != object_)).sum().item()
    assert together > 100  # which the published matching takes for human and object at once


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
def test_the_right_one_of_two_persons_gives_way(rule):
    """Person 0 is far surer than person 1; the offsets point at both, from half-way."""
    persons = peaks((0.99, 0, 8, 6), (0.1, 0, 8, 12))
    offsets = torch.tensor([[[0.0, 3.0]], [[0.0, -3.0]]])[:, None]
    for to_human, to_object, expected in (
        (offsets[0], offsets[1], (0, 1)),
        (offsets[1], offsets[0], (1, 0)),
    ):
        case = (peaks((0.9, 0, 8, 9)), persons, persons, to_human, to_object)
        for identity in ({}, {"one_list": True}):
            human, object_, score = ops.match_points(*case, rule=rule, **identity)
            assert (human.item(), object_.item()) == expected
            assert score.item() == pytest.approx(0.9 * 0.99 * 0.1)
        published = ops.match_points(*case, rule="product", allow_same=True)
        assert (published[0].item(), published[1].item()) == (0, 0)


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
def test_a_person_alone_is_not_its_own_object(rule):
    person, zeros = peaks((0.9, 0, 5, 5)), torch.zeros(1, 1, 2)
    interaction = peaks((0.9, 0, 5, 5))
    for identity in ({}, {"one_list": True}):
        human, object_, score = ops.match_points(
            interaction, person, person, zeros, zeros, rule=rule, **identity
        )
        assert (human.item(), object_.item(), score.item()) == (0, -1, 0)
    both = ops.match_points(interaction, person, person, zeros, zeros, rule=rule, allow_same=True)
    assert (both[0].item(), both[1].item()) == (0, 0)


@pytest.mark.interpreted
def test_what_the_same_detection_is():
    """As peaks: one class and cell, whatever the index; as one list: one index."""
    zeros, interaction = torch.zeros(1, 1, 2), peaks((0.9, 0, 5, 5))
    humans = peaks((0.8, 0, 5, 5))
    other_class, same_cell = peaks((0.8, 1, 5, 5)), peaks((0.1, 0, 9, 9), (0.8, 0, 5, 5))
    of = lambda *case, **how: ops.match_points(interaction, *case, zeros, zeros, **how)[1].item()  # noqa: E731
    assert of(humans, other_class) == 0
    assert of(humans, same_cell) == 0
    two = peaks((0.8, 0, 5, 5), (0.7, 0, 5, 5))  # two boxes with one center
    assert of(two, two) == -1
    assert of(two, two, one_list=True) == 1


@pytest.mark.interpreted
def test_scores_so_small_that_a_quality_overflows():
    """(100 + 100) / 1e-40 is beyond float32: worse than everything, but not nothing."""
    zeros, interaction, object_ = torch.zeros(1, 1, 2), peaks((0.5, 0, 0, 0)), peaks((0.5, 0, 0, 1))
    tiny, padding = (1e-40, 0, 100, 100), (0.0, 0, 0, 0)
    for humans, expected in (
        ([tiny], 0),
        ([padding, tiny, tiny], 1),
        ([tiny, (1e-40, 0, 0, 0)], 1),
        ([tiny] * 70 + [(0.5, 0, 9, 9)], 70),
        ([padding] * 70 + [tiny], 70),
    ):
        human, found, score = ops.match_points(
            interaction, peaks(*humans), object_, zeros, zeros, rule="distance"
        )
        assert (human.item(), found.item()) == (expected, 0)
        assert score.item() == pytest.approx(0.25 * humans[expected][0], rel=1e-3)


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("score", [torch.inf, -torch.inf, torch.nan, -1.0])
def test_a_score_that_is_none_matches_nothing(rule, score):
    zeros = torch.zeros(1, 1, 2)
    wrong, good = (score, 0, 5, 5), (0.5, 0, 7, 7)
    human, object_, _ = ops.match_points(
        peaks((0.9, 0, 5, 5)), peaks(wrong), peaks(wrong, good), zeros, zeros, rule=rule
    )
    assert (human.item(), object_.item()) == (-1, 1)


@pytest.mark.interpreted
def test_verbs_and_classes_that_the_table_lacks_match_nothing():
    interactions = peaks(*((0.9, verb, 5, 5) for verb in (0, 1, -1, 2**40)))
    objects = peaks(*((0.9, kind, 5, 5) for kind in (-1, 1, 2**40)))
    zeros = torch.zeros(1, 4, 2)
    table = torch.ones(1, 2, dtype=torch.bool)
    found = ops.match_points(interactions, peaks((0.9, 0, 1, 1)), objects, zeros, zeros, table)
    assert found[1].tolist() == [[1, -1, -1, -1]]


@pytest.mark.interpreted
@pytest.mark.parametrize("counts", [(0, 3, 3), (3, 0, 3), (3, 3, 0), (1, 1, 1), (100, 100, 100)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_any_numbers_of_candidates(counts, batch):
    for rule in RULES:
        assert_same_matches(random_case(0, batch=batch, counts=counts), rule)


@pytest.mark.interpreted
def test_the_two_rules_by_hand():
    """One interaction at (10, 10) whose human offset points at (10, 6)."""
    interaction, object_ = peaks((0.5, 0, 10, 10)), peaks((1.0, 0, 10, 10))
    humans = peaks((0.9, 0, 10, 2), (0.5, 0, 10, 7), (0.3, 0, 11, 7))
    offset = torch.tensor([[[0.0, 4.0]]])
    # product: 0.9 / 5 = 0.18, 0.5 / 2 = 0.25, 0.3 / 4; distance: 4 / 0.9, 1 / 0.5 = 2, 2 / 0.3
    for rule in RULES:
        human, obj, score = ops.match_points(
            interaction, humans, object_, offset, torch.zeros(1, 1, 2), rule=rule
        )
        assert human.item() == 1
        assert obj.item() == 0
        assert score.item() == pytest.approx(0.5 * 0.5 * 1.0)
    # Farther away the rules part: 0.9 / 5 against 0.05 / 1, and 4.4 against 0.
    humans = peaks((0.9, 0, 10, 2), (0.05, 0, 10, 6))
    chosen = [
        ops.match_points(interaction, humans, object_, offset, torch.zeros(1, 1, 2), rule=rule)[
            0
        ].item()
        for rule in RULES
    ]
    assert chosen == [0, 1]


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
def test_ties_go_to_the_smaller_index(rule):
    around = peaks((0.5, 0, 4, 6), (0.5, 0, 6, 4), (0.5, 0, 4, 2), (0.5, 0, 4, 6))
    human, object_, _ = ops.match_points(
        peaks((1.0, 0, 4, 4)),
        around,
        tuple(t.flip(1) for t in around),
        torch.zeros(1, 1, 2),
        torch.zeros(1, 1, 2),
        rule=rule,
        allow_same=True,
    )
    # product: 2 steps along one axis cost the same in every direction
    assert human.item() == 0
    assert object_.item() == 0


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
def test_only_valid_objects_match(rule):
    interactions = peaks((0.9, 0, 5, 5), (0.8, 1, 5, 5), (0.7, 2, 5, 5))
    objects = peaks((0.9, 0, 5, 5), (0.5, 1, 9, 9))
    valid_pairs = torch.tensor([[True, True], [False, True], [False, False]])
    zeros = torch.zeros(1, 3, 2)
    human, object_, score = ops.match_points(
        interactions, peaks((1.0, 0, 5, 4)), objects, zeros, zeros, valid_pairs, rule=rule
    )
    assert human.tolist() == [[0, 0, 0]]
    assert object_.tolist() == [[0, 1, -1]]
    assert score[0].tolist() == pytest.approx([0.9 * 0.9, 0.8 * 0.5, 0])


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
def test_padding_never_matches(rule):
    """`topk_peaks` pads with score 0 at cell (0, 0), right where this interaction points."""
    candidates = peaks((0.1, 0, 60, 60), (0.0, 0, 0, 0))
    nothing = peaks((0.0, 0, 0, 0))
    zeros = torch.zeros(1, 1, 2)
    human, object_, score = ops.match_points(
        peaks((0.9, 0, 0, 0)), candidates, nothing, zeros, zeros, rule=rule
    )
    assert (human.item(), object_.item(), score.item()) == (0, -1, 0)


@pytest.mark.interpreted
@pytest.mark.parametrize("rule", RULES)
def test_an_offset_that_is_no_number_matches_nothing(rule):
    zeros = torch.zeros(1, 1, 2)
    for value in (torch.nan, torch.inf, -torch.inf):
        human, object_, score = ops.match_points(
            peaks((0.9, 0, 1, 1)),
            peaks((0.9, 0, 1, 1)),
            peaks((0.9, 0, 1, 1)),
            zeros,
            torch.full_like(zeros, value),
            rule=rule,
        )
        assert (human.item(), object_.item(), score.item()) == (0, -1, 0)


def test_same_bits_for_any_number_of_threads():
    case = random_case(1, batch=4, counts=(100, 100, 100), side=128)
    assert_same_bits(lambda: ops.match_points(*case))


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("position", "value", "error", "message"),
    [
        (0, (torch.zeros(2, 3),) * 3, ValueError, "interactions has 3 tensors"),
        (1, (torch.zeros(2, 3),) * 4, TypeError, r"humans\[1\] \(channels\) .*int64"),
        (1, random_case(0, batch=3)[1], ValueError, "humans are of 3 images; expected 2"),
        (2, random_case(0, torch.float64)[2], TypeError, "objects .*float64"),
        (3, torch.zeros(2, 19, 2), ValueError, r"human_offsets .*\(2, 20, 2\)"),
        (4, torch.zeros(2, 20, 2).half(), TypeError, "object_offsets .*float16"),
        (5, torch.zeros(6, 5), TypeError, "valid_pairs .*bool"),
    ],
)
def test_errors_name_the_argument(position, value, error, message):
    case = list(random_case(0))
    case[position] = value
    with pytest.raises(error, match=message):
        ops.match_points(*case)


@pytest.mark.interpreted
def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="rule is 'nearest'; expected one of product, distance"):
        ops.match_points(*random_case(0), rule="nearest")

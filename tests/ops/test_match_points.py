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


def assert_same_matches(case, rule):
    got = ops.match_points(*case, rule=rule)
    want = reference.match_points(*case, rule=rule)
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
        interactions, peaks((1.0, 0, 5, 5)), objects, zeros, zeros, valid_pairs, rule=rule
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

import pytest
import torch
from op_testing import generator, randn
from tolerances import TRIPLETS
from torch._subclasses.fake_tensor import FakeTensorMode

from ggnet import ops, reference
from ggnet.triplets import Detections

RULES = ("product", "distance")
INTERACTION_MAPS = ("interaction", "human_offset", "object_offset")


def outputs(batch=2, classes=4, verbs=5, height=12, width=9, apm=True, dtype=torch.float32, seed=0):
    channels = 2 * verbs if apm else 2
    shapes = {
        "heatmap": classes,
        "interaction": verbs,
        "size": 2,
        "center_frac": 2,
        "human_offset": channels,
        "object_offset": channels,
    }
    return {
        name: randn(batch, count, height, width, seed=seed + i, scale=2).to(dtype)
        for i, (name, count) in enumerate(shapes.items())
    }


def blank(**shape):
    maps = outputs(batch=1, **shape)
    for name, map in maps.items():
        map.fill_(-20.0 if name in ("heatmap", "interaction") else 0.0)
    return maps


def assert_same_triplets(got, want):
    tolerance = TRIPLETS[want.scores.dtype]
    assert torch.allclose(got.scores, want.scores, atol=tolerance)
    real = want.scores > 0
    for name, one, other in zip(got._fields, got, want, strict=True):
        assert one.shape == other.shape, name
        assert one.dtype == other.dtype, name
        assert torch.allclose(one[real].double(), other[real].double(), atol=tolerance), name


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("apm", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_matches_the_loop_over_images(dtype, apm, rule):
    valid_pairs = torch.rand(5, 4, generator=generator(1)) > 0.4
    for seed in range(5):
        maps = outputs(apm=apm, dtype=dtype, seed=10 * seed)
        for pairs in (None, valid_pairs):
            for same in (False, True):
                how = {"k": 20, "rule": rule, "allow_same": same}
                got = ops.decode_hoi(maps, pairs, **how)
                assert_same_triplets(got, reference.decode_hoi(maps, pairs, **how))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_images_do_not_influence_each_other(batch):
    maps = outputs(batch=batch)
    together = ops.decode_hoi(maps, k=15)
    assert together.scores.shape == (batch, 15)
    for b in range(batch):
        alone = ops.decode_hoi({name: map[b : b + 1] for name, map in maps.items()}, k=15)
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[b], other[0])


@pytest.mark.interpreted
def test_one_pair_by_hand():
    maps = blank()
    maps["heatmap"][0, 0, 2, 1] = 3.0  # the person
    maps["heatmap"][0, 2, 8, 7] = 2.0  # an object of class 2
    maps["interaction"][0, 3, 5, 4] = 1.0  # half-way, verb 3
    maps["human_offset"][0, 6:8, 5, 4] = torch.tensor([3.0, 3.0])  # (5, 4) - (2, 1), as x, y
    maps["object_offset"][0, 6:8, 5, 4] = torch.tensor([-3.0, -3.0])
    maps["size"][0, :, 2, 1] = torch.tensor([2.0, 4.0])
    maps["size"][0, :, 8, 7] = torch.tensor([1.0, 1.0])
    maps["center_frac"][0, :, 2, 1] = torch.tensor([0.5, 0.25])
    found = ops.decode_hoi(maps, k=4)
    person, thing, verb = torch.tensor([3.0, 2.0, 1.0]).sigmoid()
    assert found.scores[0, 0].item() == pytest.approx((person * thing * verb).item())
    assert found.verbs[0, 0] == 3
    assert found.object_labels[0, 0] == 2
    assert found.interaction_yx[0, 0].tolist() == [5, 4]
    assert found.human_boxes[0, 0].tolist() == pytest.approx([0.5, 0.25, 2.5, 4.25])
    assert found.object_boxes[0, 0].tolist() == pytest.approx([6.5, 7.5, 7.5, 8.5])
    assert found.human_scores[0, 0].item() == pytest.approx(person.item())
    assert found.object_scores[0, 0].item() == pytest.approx(thing.item())


def two_persons(sure, other, towards):
    """Persons of class 0 at (8, 6) and (8, 12), half-way an interaction whose human offset points
    at the first of them (towards 1) or at the second (-1), its object offset at the other one."""
    maps = blank(classes=2, verbs=1, height=16, width=16)
    maps["size"].fill_(6.0)
    maps["heatmap"][0, 0, 8, 6], maps["heatmap"][0, 0, 8, 12] = sure, other
    maps["interaction"][0, 0, 8, 9] = 6.0
    maps["human_offset"][0, 0, 8, 9] = 3.0 * towards
    maps["object_offset"][0, 0, 8, 9] = -3.0 * towards
    return maps


@pytest.mark.interpreted({"rule": "product", "other": -4.0})
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("other", [6.0, 0.0, -2.0, -4.0])
def test_a_person_is_not_its_own_object(other, rule):
    pairs = torch.tensor([[True, False]])  # person with person
    left, right = [3.0, 5, 9, 11], [9.0, 5, 15, 11]
    for towards, expected in ((1, (left, right)), (-1, (right, left))):
        maps = two_persons(6.0, other, towards)
        boxes = ops.decode_detections(maps, k=2)
        for external in (None, boxes):
            how = {"k": 5, "rule": rule, "detections": external}
            found = ops.decode_hoi(maps, pairs, **how)
            assert (found.human_boxes[0, 0].tolist(), found.object_boxes[0, 0].tolist()) == expected
            scores = torch.tensor([6.0, 6.0, other]).sigmoid()
            assert found.scores[0, 0].item() == pytest.approx(scores.prod().item(), rel=1e-5)
            itself = ops.decode_hoi(maps, pairs, allow_same=True, **how)
            assert_same_triplets(itself, reference.decode_hoi(maps, pairs, allow_same=True, **how))
            same = torch.equal(itself.human_boxes[0, 0], itself.object_boxes[0, 0])
            assert same == (rule == "product" and other < 0)


def test_an_object_of_another_class_at_the_persons_cell_is_another_detection():
    maps = blank()
    maps["heatmap"][0, 0, 5, 4], maps["heatmap"][0, 2, 5, 4] = 3.0, 2.0
    maps["interaction"][0, 3, 5, 4] = 1.0
    found = ops.decode_hoi(maps, k=4)
    assert found.object_labels[0, 0] == 2
    assert found.scores[0, 0] == torch.tensor([3.0, 2.0, 1.0]).sigmoid().prod()


def test_external_persons_with_one_center_are_two():
    maps = blank()
    maps["interaction"][0, 3, 5, 4] = 1.0
    boxes = torch.tensor([[[2.0, 2, 7, 9], [4.0, 5, 5, 6], [0.0, 0, 1, 1]]])
    found = ops.decode_hoi(
        maps,
        k=4,
        detections=Detections(boxes, torch.zeros(1, 3).long(), torch.tensor([[0.9, 0.9, 0.9]])),
    )
    assert (found.human_index[0, 0], found.object_index[0, 0]) == (0, 1)


def test_duplicates_keep_the_best_score():
    maps = blank()
    maps["heatmap"][0, 0, 2, 1] = 3.0
    maps["heatmap"][0, 2, 8, 7] = 2.0
    maps["interaction"][0, 3, 3, 3] = 0.5
    maps["interaction"][0, 3, 6, 6] = 1.0  # the same person, object and verb
    maps["interaction"][0, 1, 6, 6] = 0.0  # another verb
    pairs = torch.zeros(5, 4, dtype=torch.bool)
    pairs[:, 2] = True
    found = ops.decode_hoi(maps, pairs, k=6)
    best = (found.scores[0] > 1e-3).nonzero().flatten().tolist()
    assert best == [0, 1]
    assert found.verbs[0, :2].tolist() == [3, 1]
    assert found.interaction_yx[0, 0].tolist() == [6, 6]


def test_triplets_are_sorted_and_unique():
    found = ops.decode_hoi(outputs(height=30, width=30), k=100)
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()
    for b in range(2):
        keys = [
            (int(h), int(o), int(v))
            for h, o, v, s in zip(
                found.human_index[b],
                found.object_index[b],
                found.verbs[b],
                found.scores[b],
                strict=True,
            )
            if s > 0
        ]
        assert len(keys) == len(set(keys))


def test_invalid_pairs_score_nothing():
    maps = outputs()
    pairs = torch.zeros(5, 4, dtype=torch.bool)
    assert not ops.decode_hoi(maps, pairs, k=10).scores.any()
    pairs[2, 3] = True
    found = ops.decode_hoi(maps, pairs, k=10)
    real = found.scores > 0
    assert real.any()
    assert (found.verbs[real] == 2).all()
    assert (found.object_labels[real] == 3).all()


def test_shapes_depend_on_no_value():
    """A fake tensor has no values: reading one, as a host synchronization would, raises."""
    with FakeTensorMode() as mode:
        maps = {name: mode.from_tensor(map) for name, map in outputs().items()}
        pairs = mode.from_tensor(torch.ones(5, 4, dtype=torch.bool))
        found = ops.decode_hoi(maps, pairs, k=7)
    assert found.human_boxes.shape == (2, 7, 4)


def test_carries_no_gradient():
    maps = {name: map.requires_grad_() for name, map in outputs().items()}
    assert not any(t.requires_grad for t in ops.decode_hoi(maps, k=5))


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"size": None}, ValueError, "outputs lacks size"),
        ({"size": torch.zeros(2, 3, 12, 9)}, ValueError, r"size .*\(2, 2, 12, 9\)"),
        (
            {"human_offset": torch.zeros(2, 8, 12, 9)},
            ValueError,
            r"human_offset .*\(2, 10, 12, 9\)",
        ),
        ({"interaction": torch.zeros(2, 5, 12, 8)}, ValueError, "interaction .*12, 9"),
    ],
)
def test_errors_name_the_map(change, error, message):
    maps = {name: map for name, map in (outputs() | change).items() if map is not None}
    with pytest.raises(error, match=message):
        ops.decode_hoi(maps)


def test_a_table_of_another_vocabulary_is_an_error():
    with pytest.raises(ValueError, match=r"valid_pairs .*\(5, 4\)"):
        ops.decode_hoi(outputs(), torch.ones(6, 4, dtype=torch.bool))


def external(batch=2, count=13, seed=5):
    """Boxes that reach beyond the map, the last two of them padding."""
    boxes = torch.rand(batch, count, 4, generator=generator(seed)) * 14 - 2
    boxes[..., 2:] += boxes[..., :2]
    labels = torch.randint(0, 4, (batch, count), generator=generator(seed + 1))
    scores = torch.rand(batch, count, generator=generator(seed + 2))
    scores[:, -2:] = 0
    return Detections(boxes, labels, scores)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_external_boxes_match_the_loop_over_images(batch, rule):
    maps = {name: outputs(batch=batch)[name] for name in INTERACTION_MAPS}
    valid_pairs = torch.rand(5, 4, generator=generator(1)) > 0.4
    for pairs in (None, valid_pairs):
        found = {"k": 20, "rule": rule, "detections": external(batch)}
        got = ops.decode_hoi(maps, pairs, **found)
        assert_same_triplets(got, reference.decode_hoi(maps, pairs, **found))
        real = got.scores > 0
        assert real.any() == (batch > 0)
        assert (got.human_index[real] < 11).all()  # not the padding
        labels = found["detections"].labels
        assert (labels.gather(1, got.human_index.clamp(min=0))[real] == 0).all()
        assert torch.equal(
            labels.gather(1, got.object_index.clamp(min=0))[real], got.object_labels[real]
        )


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_no_external_boxes_are_no_triplets(batch):
    maps = {name: outputs(batch=batch)[name] for name in INTERACTION_MAPS}
    none = Detections(torch.zeros(batch, 0, 4), torch.zeros(batch, 0).long(), torch.zeros(batch, 0))
    found = ops.decode_hoi(maps, k=5, detections=none)
    assert_same_triplets(found, reference.decode_hoi(maps, k=5, detections=none))
    assert found.scores.shape == (batch, 5)
    assert not found.scores.any()
    assert (found.human_index == -1).all()
    assert (found.object_index == -1).all()


def test_own_boxes_as_external_ones_give_the_same_triplets():
    """But for triplets whose person is not among the best boxes of all classes."""
    maps = outputs(height=30, width=30)
    for name in ("size", "center_frac"):
        maps[name].sigmoid_()  # the center's fraction lies within the cell
    boxes = ops.decode_detections(maps, k=500)
    assert_same_triplets(boxes, reference.decode_detections(maps, k=500))
    mine = ops.decode_hoi(maps, k=500)
    theirs = ops.decode_hoi(maps, k=500, detections=boxes)
    assert torch.equal(mine.scores, theirs.scores)
    torch.testing.assert_close(mine.human_boxes, theirs.human_boxes)
    assert torch.equal(mine.object_index, theirs.object_index)


@pytest.mark.interpreted
def test_external_pair_by_hand():
    maps = blank()
    maps["interaction"][0, 3, 5, 4] = 1.0
    maps["human_offset"][0, 6:8, 5, 4] = torch.tensor([3.0, 3.0])
    maps["object_offset"][0, 6:8, 5, 4] = torch.tensor([-3.0, -3.0])
    boxes = torch.tensor([[[6.0, 7, 8.5, 9], [0.5, 0.25, 2.5, 4.25], [1, 2, 2, 3]]])
    labels = torch.tensor([[2, 0, 1]])  # the third stands where the person does, but is none
    found = ops.decode_hoi(
        maps, k=4, detections=Detections(boxes, labels, torch.tensor([[0.5, 0.25, 0.9]]))
    )
    verb = torch.tensor(1.0).sigmoid()
    assert found.scores[0, 0].item() == pytest.approx(0.5 * 0.25 * verb.item())
    assert found.human_boxes[0, 0].tolist() == [0.5, 0.25, 2.5, 4.25]
    assert found.object_boxes[0, 0].tolist() == [6, 7, 8.5, 9]
    assert (found.human_index[0, 0], found.object_index[0, 0]) == (1, 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"boxes": torch.zeros(2, 12, 4)}, ValueError, r"detections\.boxes .*\(2, 13, 4\)"),
        ({"labels": torch.zeros(2, 13)}, TypeError, r"detections\.labels .*int64"),
        ({"scores": torch.zeros(3, 13)}, ValueError, r"detections\.scores .*\(2, 13\)"),
    ],
)
def test_external_errors_name_the_field(change, error, message):
    with pytest.raises(error, match=message):
        ops.decode_hoi(outputs(), detections=external()._replace(**change))

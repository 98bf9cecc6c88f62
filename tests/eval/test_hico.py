"""HICO's metric: each rule on a case worked by hand, then properties on random ones."""

import csv
import json

import numpy as np
import pytest
from hico_rules import no_frills, official
from hypothesis import given, settings
from hypothesis import strategies as st

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval.hico import PROTOCOLS, evaluate
from ggnet.eval.predictions import ImagePrediction

VOCABULARY = Vocabulary(
    "tiny", ("person", "dog"), (1, 18), ("pet", "walk", "eat"), (1, 2, 3), ((0, 1), (1, 1))
)
HUMAN, DOG = (0, 0, 10, 20), (30, 0, 40, 10)
FAR = (100, 100, 120, 120)


def record(image_id, pairs):
    """pairs: (human box, dog box, verb)."""
    boxes = [box for human, dog, _ in pairs for box in (human, dog)]
    index = [[2 * n, 2 * n + 1, verb] for n, (_, _, verb) in enumerate(pairs)]
    return ImageRecord(
        image_id,
        image_id,
        image_id,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([0, 1] * len(pairs), np.int64),
        np.array(index, np.int64).reshape(-1, 3),
    )


def prediction(image_id, triplets):
    """triplets: (human box, dog box, verb, score)."""
    humans, dogs, verbs, scores = zip(*triplets, strict=True) if triplets else ([], [], [], [])
    return ImagePrediction(
        image_id,
        image_id,
        np.array(humans, np.float32).reshape(-1, 4),
        np.array(dogs, np.float32).reshape(-1, 4),
        np.ones(len(scores), np.int64),
        np.array(verbs, np.int64),
        np.array(scores, np.float32),
    )


def ap(predictions, records, hoi=0, setting="default", **options):
    return evaluate(predictions, records, VOCABULARY, **options).ap[setting][hoi]


ONE = [record("a", [(HUMAN, DOG, 0)])]


def test_a_correct_detection_scores_100():
    assert ap([prediction("a", [(HUMAN, DOG, 0, 0.3)])], ONE) == 100


def test_no_detections_score_0():
    assert ap([], ONE) == 0
    assert ap([prediction("a", [])], ONE) == 0


def test_no_ground_truth_has_no_ap_and_is_left_out_of_the_mean():
    result = evaluate(
        [prediction("a", [(HUMAN, DOG, 0, 0.3), (HUMAN, DOG, 1, 0.3)])], ONE, VOCABULARY
    )
    assert np.isnan(result.ap["default"][1])
    assert result.mean_ap() == 100


def test_the_wrong_verb_is_a_false_positive_of_its_own_class():
    records = [record("a", [(HUMAN, DOG, 0)]), record("b", [(HUMAN, DOG, 1)])]
    predictions = [prediction("a", [(HUMAN, DOG, 1, 0.9)]), prediction("b", [(HUMAN, DOG, 1, 0.5)])]
    assert ap(predictions, records, hoi=1) == pytest.approx(50)  # precision 1/2 at full recall
    assert ap(predictions, records, hoi=0) == 0


def test_a_duplicate_is_a_false_positive():
    two = [record("a", [(HUMAN, DOG, 0)]), record("b", [(HUMAN, DOG, 0)])]
    predictions = [
        prediction("a", [(HUMAN, DOG, 0, 0.9), (HUMAN, DOG, 0, 0.8)]),
        prediction("b", [(HUMAN, DOG, 0, 0.7)]),
    ]
    # precision 1 up to recall 1/2 (points 0 to 0.5), then 2/3 (points 0.6 to 1)
    assert ap(predictions, two) == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)


@pytest.mark.parametrize("which", ["human", "object"])
def test_both_boxes_must_overlap_by_half(which):
    exactly_half = (0, 0, 10, 10) if which == "human" else (30, 0, 40, 5)
    less = (0, 0, 10, 9.9) if which == "human" else (30, 0, 40, 4.9)
    for box, correct in ((exactly_half, True), (less, False)):
        human, dog = (box, DOG) if which == "human" else (HUMAN, box)
        assert ap([prediction("a", [(human, dog, 0, 0.9)])], ONE) == 100 * correct
        # No-Frills asks for more than half
        strict = ap([prediction("a", [(human, dog, 0, 0.9)])], ONE, protocol="no-frills")
        assert strict == 0


def test_a_detection_goes_to_the_pair_that_it_overlaps_most():
    """Both detections overlap the first pair best, so the second is a duplicate, although another
    pair would have been free; No-Frills gives it that one."""
    near, other = (0, 0, 10, 20), (2, 0, 12, 20)
    records = [record("a", [(near, DOG, 0), (other, DOG, 0)])]
    predictions = [prediction("a", [(near, DOG, 0, 0.9), ((0.5, 0, 10.5, 20), DOG, 0, 0.8)])]
    assert ap(predictions, records) == pytest.approx(100 * 6 / 11)
    assert ap(predictions, records, protocol="no-frills") == 100


def test_no_frills_takes_the_first_pair_of_the_file():
    """The best-scored detection fits the second pair better but takes the first; the other
    detection then finds the first taken and the second too far."""
    first, second = (0, 0, 10, 20), (4, 0, 14, 20)
    records = [record("a", [(first, DOG, 0), (second, DOG, 0)])]
    predictions = [
        prediction("a", [((2.5, 0, 12.5, 20), DOG, 0, 0.9), ((-2, 0, 8, 20), DOG, 0, 0.8)])
    ]
    assert ap(predictions, records) == 100
    assert ap(predictions, records, protocol="no-frills") == pytest.approx(100 * 6 / 11)


def test_no_frills_counts_inclusive_pixels():
    """Overlap 7 of 13 pixels; without the one added to widths it would be 6 of 12, too little."""
    moved = [prediction("a", [((3, 0, 13, 20), DOG, 0, 0.9)])]
    assert ap(moved, ONE) == ap(moved, ONE, protocol="no-frills") == 100


@pytest.mark.parametrize(("width", "no_frills"), [(1, 0), (2, 100)])
def test_no_frills_does_not_see_boxes_of_one_column(width, no_frills):
    thin = (5, 0, 5 + width, 20)
    records = [record("a", [(thin, DOG, 0)])]
    same = [prediction("a", [(thin, DOG, 0, 0.9)])]
    assert (ap(same, records), ap(same, records, protocol="no-frills")) == (100, no_frills)


def test_equal_overlaps_go_to_the_first_pair_of_the_file():
    """The first detection lies midway; whichever pair it takes is missing for the second."""
    right, left = (2, 0, 12, 20), (-2, 0, 8, 20)
    predictions = [prediction("a", [(HUMAN, DOG, 0, 0.9), (left, DOG, 0, 0.8)])]
    assert ap(predictions, [record("a", [(right, DOG, 0), (left, DOG, 0)])]) == 100
    taken = [record("a", [(left, DOG, 0), (right, DOG, 0)])]
    assert ap(predictions, taken) == pytest.approx(100 * 6 / 11)


def test_known_object_looks_only_at_images_with_the_object():
    records = [record("a", [(HUMAN, DOG, 0)]), record("empty", [])]
    predictions = [
        prediction("empty", [(HUMAN, DOG, 0, 0.9)]),
        prediction("a", [(HUMAN, DOG, 0, 0.5)]),
    ]
    assert ap(predictions, records) == pytest.approx(50)
    assert ap(predictions, records, setting="known-object") == 100
    records[1].known_objects = np.array([1])  # image-level labels name a dog without boxes
    assert ap(predictions, records, setting="known-object") == pytest.approx(50)


def test_known_object_leaves_out_the_positives_of_other_images():
    """Image-level labels may lack an annotated object: that pair cannot be found and is none."""
    records = [record("a", [(HUMAN, DOG, 0)]), record("b", [(HUMAN, DOG, 0), (FAR, DOG, 0)])]
    for one in records:
        one.known_objects = np.array([1] if one.image_id == "a" else [0])
    predictions = [prediction("a", [(HUMAN, DOG, 0, 0.5)])]
    assert ap(predictions, records, setting="known-object") == 100
    assert ap(predictions, records) == pytest.approx(100 * 4 / 11)  # a third: 0, 0.1, 0.2, 0.3


@pytest.mark.parametrize("protocol", ["official", "ppdm"])
def test_equal_scores_with_different_objects(protocol):
    """One person, equal scores: ordered by the objects' boxes, whatever the order of the file."""
    left, right = (20, 0, 28, 10), (60, 0, 68, 10)
    triplets = [(HUMAN, left, 0, 0.5), (HUMAN, right, 0, 0.5)]
    for truth, expected in ((left, 100), (right, 50)):
        for order in (triplets, triplets[::-1]):
            found = ap(
                [prediction("a", order)], [record("a", [(HUMAN, truth, 0)])], protocol=protocol
            )
            assert found == pytest.approx(expected)


def test_rare_and_non_rare():
    records = [record("a", [(HUMAN, DOG, 0), (HUMAN, DOG, 1)])]
    predictions = [prediction("a", [(HUMAN, DOG, 0, 0.5)])]
    result = evaluate(predictions, records, VOCABULARY, train_counts=np.array([9, 10]))
    assert result.mean_ap(group="rare") == 100
    assert result.mean_ap(group="non-rare") == 0
    assert result.mean_ap() == 50
    unseen = evaluate(
        predictions, records, VOCABULARY, train_counts=np.array([0, 10]), protocol="ppdm"
    )
    assert np.isnan(unseen.mean_ap(group="rare"))
    listed = evaluate(predictions, records, VOCABULARY, rare=np.array([False, True]))
    assert listed.mean_ap(group="rare") == 0
    assert list(evaluate(predictions, records, VOCABULARY).groups) == ["full"]


@pytest.mark.parametrize("tenths", [3, 6, 7])
def test_recall_of_exactly_some_tenths(tenths):
    """3/10, 6/10 and 7/10 reach their point in exact arithmetic and miss it in doubles."""
    records = [record(str(n), [(HUMAN, DOG, 0)]) for n in range(10)]
    predictions = [prediction(str(n), [(HUMAN, DOG, 0, 0.5)]) for n in range(tenths)]
    assert ap(predictions, records) == pytest.approx(100 * (tenths + 1) / 11)
    assert ap(predictions, records, recall_points="double") == pytest.approx(100 * tenths / 11)


def test_tenths_that_doubles_reach():
    records = [record(str(n), [(HUMAN, DOG, 0)]) for n in range(10)]
    for tenths in (1, 2, 4, 5, 8, 9, 10):
        predictions = [prediction(str(n), [(HUMAN, DOG, 0, 0.5)]) for n in range(tenths)]
        expected = pytest.approx(100 * (tenths + 1) / 11)
        assert ap(predictions, records, recall_points="double") == expected


def test_no_frills_counts_silence_as_zero():
    assert ap([], ONE, hoi=1, protocol="no-frills") == 0
    assert np.isnan(ap([], ONE, hoi=1))


def test_pairs_outside_the_vocabulary_are_counted_apart():
    records = [record("a", [(HUMAN, DOG, 0), (HUMAN, DOG, 2)])]  # nobody eats dogs
    result = evaluate(
        [prediction("a", [(HUMAN, DOG, 0, 0.1), (HUMAN, DOG, 2, 0.9)])], records, VOCABULARY
    )
    assert result.mean_ap() == 100
    assert (result.invalid_predictions, result.invalid_ground_truth) == (1, 1)


def test_predictions_of_other_images_stop():
    with pytest.raises(UserError, match="image b .* is not in the annotations"):
        evaluate([prediction("b", [])], ONE, VOCABULARY)
    with pytest.raises(UserError, match="image a .* has two predictions"):
        evaluate([prediction("a", []), prediction("a", [])], ONE, VOCABULARY)
    with pytest.raises(UserError, match="image ids repeat"):
        evaluate([], ONE * 2, VOCABULARY)


def test_unknown_options_stop():
    with pytest.raises(ValueError, match="protocol is 'matlab'; expected one of official"):
        evaluate([], ONE, VOCABULARY, protocol="matlab")
    with pytest.raises(ValueError, match="points is 'all'"):
        evaluate([], ONE, VOCABULARY, recall_points="all")


def boxes_near(rng, box):
    return tuple(np.sort((np.array(box) + rng.integers(-4, 5, 4)).reshape(2, 2), axis=0).ravel())


def random_case(seed):
    """A few images with overlapping pairs; detections around them, scores with many ties."""
    rng = np.random.default_rng(seed)
    records, predictions = [], []
    for image in range(rng.integers(1, 6)):
        pairs = [
            (boxes_near(rng, HUMAN), boxes_near(rng, DOG), int(rng.integers(2)))
            for _ in range(rng.integers(0, 5))
        ]
        triplets = []
        for _ in range(rng.integers(0, 9)):
            human, dog = (HUMAN, DOG) if not pairs else pairs[rng.integers(len(pairs))][:2]
            human, dog = boxes_near(rng, human), boxes_near(rng, dog)
            triplets.append((human, dog, int(rng.integers(2)), rng.integers(1, 6) / 8))
        records.append(record(str(image), pairs))
        predictions.append(prediction(str(image), triplets))
    return rng, records, predictions


def tie_heavy_case(seed):
    """Pairs and detections on a coarse grid, so that overlaps, scores and boxes repeat; some one
    pixel or two wide."""
    rng = np.random.default_rng(seed)

    def moved(box):
        x, y = rng.integers(-1, 2, 2) * 2
        width = rng.integers(1, 3) if rng.random() < 0.2 else box[2] - box[0]
        return (box[0] + x, box[1] + y, box[0] + x + width, box[3] + y)

    records, predictions = [], []
    for image in range(rng.integers(1, 5)):
        pairs = [(moved(HUMAN), moved(DOG), int(rng.integers(2))) for _ in range(rng.integers(6))]
        triplets = [
            (moved(HUMAN), moved(DOG), int(rng.integers(2)), rng.integers(1, 4) / 4)
            for _ in range(rng.integers(9))
        ]
        records.append(record(str(image), pairs))
        predictions.append(prediction(str(image), triplets))
    return rng, records, predictions


@given(
    seed=st.integers(0, 2**32 - 1),
    case=st.sampled_from([random_case, tie_heavy_case]),
    protocol=st.sampled_from(sorted(PROTOCOLS)),
)
@settings(max_examples=400, deadline=None)
def test_every_class_equals_the_evaluators_own_steps(seed, case, protocol):
    _, records, predictions = case(seed)
    result = evaluate(predictions, records, VOCABULARY, protocol=protocol)
    steps = no_frills if protocol == "no-frills" else official
    for hoi in range(2):
        expected = steps(predictions, records, hoi)
        np.testing.assert_allclose(result.ap["default"][hoi], expected, rtol=1e-12)


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_chunks_change_nothing(monkeypatch, protocol):
    for seed in range(20):
        _, records, predictions = random_case(seed)
        whole = evaluate(predictions, records, VOCABULARY, protocol=protocol)
        with monkeypatch.context() as patch:
            patch.setattr("ggnet.eval.boxes.CHUNK", 2)
            parts = evaluate(predictions, records, VOCABULARY, protocol=protocol)
        np.testing.assert_array_equal(whole.ap["default"], parts.ap["default"])


@given(seed=st.integers(0, 2**32 - 1), protocol=st.sampled_from(["official", "ppdm"]))
@settings(max_examples=60, deadline=None)
def test_the_order_of_images_and_predictions_changes_nothing(seed, protocol):
    rng, records, predictions = random_case(seed)
    before = evaluate(predictions, records, VOCABULARY, protocol=protocol)
    for values in predictions:
        order = rng.permutation(len(values))
        for name in ("human_boxes", "object_boxes", "object_labels", "verbs", "scores"):
            setattr(values, name, getattr(values, name)[order])
    records = [records[i] for i in rng.permutation(len(records))]
    predictions = [predictions[i] for i in rng.permutation(len(predictions))]
    after = evaluate(predictions, records, VOCABULARY, protocol=protocol)
    for setting in before.ap:
        np.testing.assert_array_equal(before.ap[setting], after.ap[setting])


@given(
    seed=st.integers(0, 2**32 - 1),
    score=st.floats(0, 1, width=32),
    protocol=st.sampled_from(sorted(PROTOCOLS)),
)
@settings(max_examples=60, deadline=None)
def test_a_false_positive_never_raises_ap(seed, score, protocol):
    rng, records, predictions = random_case(seed)
    before = evaluate(predictions, records, VOCABULARY, protocol=protocol)
    image = int(rng.integers(len(records)))
    values = predictions[image]
    triplets = list(
        zip(values.human_boxes, values.object_boxes, values.verbs, values.scores, strict=True)
    )
    predictions[image] = prediction(values.image_id, [*triplets, (FAR, FAR, 0, score)])
    after = evaluate(predictions, records, VOCABULARY, protocol=protocol)
    for setting in before.ap:
        old, new = before.ap[setting][0], after.ap[setting][0]
        assert new <= old or np.isnan([old, new]).any()


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
@pytest.mark.parametrize("recall_points", ["exact", "double"])
def test_ground_truth_as_predictions_scores_100(protocol, recall_points):
    rng = np.random.default_rng(0)
    records, predictions = [], []
    for image in range(30):
        pairs = []
        for column in range(rng.integers(0, 5)):  # far enough apart to be told apart
            shift = np.array([60 * column, 0] * 2)
            pairs.append((tuple(shift + HUMAN), tuple(shift + DOG), int(rng.integers(2))))
        records.append(record(str(image), pairs))
        predictions.append(prediction(str(image), [(*pair, rng.random()) for pair in pairs]))
    result = evaluate(
        predictions, records, VOCABULARY, protocol=protocol, recall_points=recall_points
    )
    assert result.summary() == {s: {"full": pytest.approx(100)} for s in result.ap}
    np.testing.assert_allclose(result.recall, 100)


def test_the_table_of_a_single_hoi(tmp_path):
    vocabulary = Vocabulary("one", ("person", "dog"), (1, 2), ("pet",), (1,), ((0, 1),))
    found = [prediction("a", [(HUMAN, DOG, 0, 0.5)])]
    evaluate(found, [record("a", [(HUMAN, DOG, 0)])], vocabulary).to_csv(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text().count("\n") == 2


def test_results_on_disk(tmp_path):
    records = [record("a", [(HUMAN, DOG, 0)])]
    result = evaluate(
        [prediction("a", [(HUMAN, DOG, 0, 0.5)])],
        records,
        VOCABULARY,
        train_counts=np.array([3, 99]),
    )
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["mean_ap"]["default"] == {"full": 100.0, "rare": 100.0, "non-rare": None}
    result.to_csv(tmp_path / "metrics.csv")
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["verb"] for row in rows] == ["pet", "walk"]
    assert rows[0]["ap_default"] == "100.0"
    means = dict.fromkeys(("mAP", "mAP_rare", "mAP_known_object"), 100.0)  # what there is
    assert result.headline() == means
    table = result.table()
    assert "unseen" not in table.title
    assert table.row_count == 2
    headers = ["setting", "full (1 HOIs)", "rare (1 HOIs)", "non-rare (0 HOIs)"]
    assert [column.header for column in table.columns] == headers
    assert [list(column.cells)[0] for column in table.columns] == [
        "default",
        "100.00",
        "100.00",
        "nan",
    ]
    table = result.class_table()
    assert [list(column.cells) for column in table.columns] == [
        ["pet dog", "walk dog"],
        ["100.00", "nan"],
        ["100.00", "nan"],
        ["100.00", "nan"],
        ["1", "0"],
        ["1", "0"],
    ]
    assert [column.justify for column in table.columns] == ["left", *["right"] * 5]

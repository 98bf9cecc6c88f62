"""V-COCO's metric: each rule on a case worked by hand, and the official script's steps."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggnet.data.tables import vcoco_actions, vcoco_vocabulary
from ggnet.errors import UserError
from ggnet.eval.predictions import ImagePrediction
from ggnet.eval.vcoco import Person, RolePredictions, evaluate, role_predictions

NOTHING = (np.nan,) * 4
MAN, WOMAN = (0, 0, 10, 20), (100, 0, 110, 20)
BALL, CUP = (30, 0, 40, 10), (60, 0, 70, 10)
S1, S2 = "scenario 1", "scenario 2"


def person(box, labelled=True, **actions):
    """actions: name -> {role: box or None}."""
    return Person(
        np.array(box, dtype=float),
        labelled,
        {
            name: {
                role: None if b is None else np.array(b, dtype=float) for role, b in roles.items()
            }
            for name, roles in actions.items()
        },
    )


def found(image_id, *rows):
    """rows: (person box, "action_role", object box, score)."""
    people, names, boxes, scores = zip(*rows, strict=True) if rows else ([], [], [], [])
    return RolePredictions(
        image_id,
        np.array(people, dtype=float).reshape(-1, 4),
        list(names),
        np.array(boxes, dtype=float).reshape(-1, 4),
        np.array(scores, dtype=float),
    )


def role_ap(rows, people, name="kick_obj"):
    result = evaluate([found("1", *rows)], {"1": people})
    return result.role_ap[S1][name], result.role_ap[S2][name]


KICKER = person(MAN, kick={"obj": BALL})


def test_a_correct_detection():
    assert role_ap([(MAN, "kick_obj", BALL, 0.5)], [KICKER]) == (100, 100)


def test_no_detections_and_no_positives():
    assert role_ap([], [KICKER]) == (0, 0)
    assert np.isnan(role_ap([(MAN, "kick_obj", BALL, 0.5)], [person(MAN)])).all()


def test_the_wrong_verb_is_a_false_positive():
    rows = [(MAN, "kick_obj", BALL, 0.9), (MAN, "kick_obj", BALL, 0.5)]
    people = [person(WOMAN, kick={"obj": CUP}), person(MAN)]
    assert role_ap([*rows, (WOMAN, "kick_obj", CUP, 0.1)], people) == pytest.approx((100 / 3,) * 2)


def test_the_wrong_object_box_is_a_false_positive_in_both_scenarios():
    assert role_ap([(MAN, "kick_obj", CUP, 0.5)], [KICKER]) == (0, 0)
    assert role_ap([(MAN, "kick_obj", NOTHING, 0.5)], [KICKER]) == (0, 0)


def test_a_missing_role():
    """No object in the ground truth: Scenario 1 wants none predicted, Scenario 2 takes any."""
    alone = person(MAN, kick={"obj": None})
    assert role_ap([(MAN, "kick_obj", BALL, 0.5)], [alone]) == (0, 100)
    assert role_ap([(MAN, "kick_obj", NOTHING, 0.5)], [alone]) == (100, 100)


def test_a_persons_second_detection_is_a_false_positive():
    people = [KICKER, person(WOMAN, kick={"obj": CUP})]
    rows = [(MAN, "kick_obj", BALL, s) for s in (0.9, 0.8)] + [(WOMAN, "kick_obj", CUP, 0.7)]
    assert role_ap(rows, people) == pytest.approx((100 * (1 / 2 + 1 / 2 * 2 / 3),) * 2)


def test_detections_of_unlabelled_persons_are_ignored():
    people = [KICKER, person(WOMAN, labelled=False)]
    near_the_woman = (105, 0, 115, 20)
    rows = [(near_the_woman, "kick_obj", CUP, 0.9), (MAN, "kick_obj", BALL, 0.5)]
    assert role_ap(rows, people) == (100, 100)


def test_the_first_person_is_nearest_when_none_overlaps():
    """argmax over zero overlaps is the first person; without labels, that hides the detection."""
    far = (500, 500, 510, 520)
    rows = [(far, "kick_obj", CUP, 0.9), (MAN, "kick_obj", BALL, 0.5)]
    assert role_ap(rows, [person(WOMAN, labelled=False), KICKER]) == (100, 100)
    assert role_ap(rows, [KICKER, person(WOMAN, labelled=False)]) == (50, 50)


def test_an_image_without_persons_has_false_positives():
    truth = {"1": [KICKER], "2": []}
    images = [found("2", (MAN, "kick_obj", BALL, 0.9)), found("1", (MAN, "kick_obj", BALL, 0.5))]
    assert evaluate(images, truth).role_ap[S1]["kick_obj"] == 50


def test_the_person_must_overlap_by_half():
    exactly_half, less = (0, 0, 10, 10), (0, 0, 10, 9.9)
    assert role_ap([(exactly_half, "kick_obj", BALL, 0.5)], [KICKER]) == (100, 100)
    assert role_ap([(less, "kick_obj", BALL, 0.5)], [KICKER]) == (0, 0)


def test_two_roles_of_an_action_count_apart():
    cutter = person(MAN, cut={"instr": BALL, "obj": CUP})
    result = evaluate([found("1", (MAN, "cut_obj", CUP, 0.5))], {"1": [cutter]})
    assert result.role_ap[S1]["cut_obj"] == 100
    assert result.role_ap[S1]["cut_instr"] == 0
    names, *_, persons = (list(column.cells) for column in result.class_table().columns)
    shown = dict(zip(names, persons, strict=True))
    assert (shown["cut obj"], shown["cut instr"], shown["kick obj"]) == ("1", "1", "0")


def test_the_means():
    everything = {action.name: dict.fromkeys(action.roles, BALL) for action in vcoco_actions()}
    names = [f"{a.name}_{role}" for a in vcoco_actions() for role in a.roles]
    rows = [(MAN, name, BALL, 0.5) for name in names if name not in ("point_instr", "hold_obj")]
    rows += [(MAN, f"{action.name}_agent", NOTHING, 0.5) for action in vcoco_actions()[:13]]
    result = evaluate([found("1", *rows)], {"1": [person(MAN, **everything)]})
    assert result.mean_role_ap(S1, 24) == pytest.approx(100 * 23 / 24)
    assert result.mean_role_ap(S1, 25) == pytest.approx(100 * 23 / 25)
    assert result.mean_agent_ap() == 50
    assert result.table().row_count == 3


def test_triplets_give_agents_their_best_score():
    vocabulary = vcoco_vocabulary()
    hold, kick = (vocabulary.verbs.index(name) for name in ("hold_obj", "kick_obj"))
    prediction = ImagePrediction(
        "1",
        "1.jpg",
        np.array([MAN, MAN, MAN], np.float32),
        np.array([BALL, CUP, BALL], np.float32),
        np.array([32, 41, 32]),
        np.array([hold, hold, kick]),
        np.array([0.25, 0.5, 0.125], np.float32),
    )
    (image,) = role_predictions([prediction], vocabulary)
    rows = dict(zip(image.names, image.scores, strict=True))
    assert image.names[:3] == ["hold_obj", "hold_obj", "kick_obj"]
    assert rows["hold_agent"] == 0.5
    assert rows["kick_agent"] == 0.125
    people = [person(MAN, hold={"obj": CUP}, kick={"obj": BALL})]
    result = evaluate([image], {"1": people})
    assert result.role_ap[S1]["hold_obj"] == 100
    assert result.agent_ap["hold"] == result.agent_ap["kick"] == 100


def test_predictions_of_other_images_stop():
    with pytest.raises(UserError, match="image 2 is not in the ground truth"):
        evaluate([found("2")], {"1": []})
    with pytest.raises(UserError, match="image 1 is there twice"):
        evaluate([found("1"), found("1")], {"1": []})


def random_case(seed):
    """Persons with some actions, detections around them, scores with ties."""
    rng = np.random.default_rng(seed)

    def near(box):
        moved = np.array(box) + rng.integers(-4, 5, 4)
        return tuple(np.sort(moved.reshape(2, 2), axis=0).ravel() + [0, 0, 1, 1])

    truth, images = {}, []
    for image in range(rng.integers(1, 4)):
        people = []
        for box in (MAN, WOMAN, near(MAN))[: rng.integers(0, 4)]:
            target = None if rng.random() < 0.3 else near(BALL)
            actions = {"kick": {"obj": target}} if rng.random() < 0.7 else {}
            labelled = rng.random() < 0.8
            people.append(person(box, labelled, **(actions if labelled else {})))
        rows = [
            (
                near((MAN, WOMAN)[rng.integers(2)]),
                "kick_obj",
                NOTHING if rng.random() < 0.3 else near(BALL),
                rng.integers(1, 5) / 4,
            )
            for _ in range(rng.integers(0, 7))
        ]
        truth[str(image)] = people
        images.append(found(str(image), *rows))
    return rng, images, truth


def official(images, truth, scenario):
    """The official script's steps for "kick obj", in inclusive pixels with 1 added to widths.
    Scores must differ."""

    def overlap(a, b):
        a, b = np.array(a) - [0, 0, 1, 1], np.array(b) - [0, 0, 1, 1]
        sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]) + 1, 0)
        both = (a[2:] - a[:2] + 1).prod() + (b[2:] - b[:2] + 1).prod()
        return sides.prod() / (both - sides.prod())

    rows = []
    for image in images:
        people = truth[image.image_id]
        covered = set()
        for j in np.argsort(image.scores)[::-1]:
            overlaps = [overlap(p.box, image.person_boxes[j]) for p in people]
            correct = False
            if people:
                nearest = int(np.argmax(overlaps))
                if not people[nearest].labelled:
                    continue
                roles = people[nearest].actions.get("kick")
                box = image.object_boxes[j]
                target = roles and roles["obj"]
                if target is None:
                    role_ok = scenario == S2 or np.isnan(box).all()
                else:
                    role_ok = not np.isnan(box).any() and overlap(target, box) >= 0.5
                correct = roles is not None and overlaps[nearest] >= 0.5 and role_ok
                if correct:
                    correct = nearest not in covered
                    covered.add(nearest)
            rows.append((image.scores[j], correct))
    positives = sum("kick" in p.actions for people in truth.values() for p in people)
    if not positives:
        return float("nan")
    hits = np.cumsum([correct for _, correct in sorted(rows, reverse=True)])
    recall = np.concatenate([[0], hits / positives, [1]])
    precision = np.concatenate([[0], hits / np.arange(1, len(hits) + 1), [0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    return 100 * float(np.sum(np.diff(recall) * precision[1:]))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_equals_the_official_scripts_steps(seed):
    rng, images, truth = random_case(seed)
    scores = iter(rng.permutation(sum(len(image.names) for image in images)))
    for image in images:
        image.scores = np.array([next(scores) for _ in image.names], dtype=float)
    result = evaluate(images, truth)
    for scenario in (S1, S2):
        expected = official(images, truth, scenario)
        np.testing.assert_allclose(result.role_ap[scenario]["kick_obj"], expected, rtol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_order_of_the_input_changes_nothing(seed):
    rng, images, truth = random_case(seed)
    before = evaluate(images, truth)
    shuffled = []
    for index in rng.permutation(len(images)):
        image, order = images[index], rng.permutation(len(images[index].names))
        rows = zip(image.person_boxes, image.names, image.object_boxes, image.scores, strict=True)
        rows = list(rows)
        shuffled.append(found(image.image_id, *(rows[i] for i in order)))
    after = evaluate(shuffled, truth)
    np.testing.assert_equal(before.role_ap, after.role_ap)


@given(seed=st.integers(0, 2**32 - 1), score=st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_false_positive_never_raises_ap(seed, score):
    _, images, truth = random_case(seed)
    before = evaluate(images, truth)
    image = images[0]
    rows = zip(image.person_boxes, image.names, image.object_boxes, image.scores, strict=True)
    wrong = (900, 900, 910, 910)
    images[0] = found(image.image_id, *rows, (wrong, "kick_obj", wrong, score))
    after = evaluate(images, truth)
    for scenario in (S1, S2):
        old, new = (result.role_ap[scenario]["kick_obj"] for result in (before, after))
        assert new <= old or np.isnan([old, new]).any()


def test_results_on_disk(tmp_path):
    result = evaluate([found("1", (MAN, "kick_obj", BALL, 0.5))], {"1": [KICKER]})
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["mean_role_ap"]["scenario 1, 24 roles"] == 100
    assert values["role_ap, scenario 1"]["hold_obj"] is None
    result.to_csv(tmp_path / "metrics.csv")
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(lines) == 26
    assert "kick_obj,1,100.0,100.0" in lines

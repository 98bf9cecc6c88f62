"""The cause of every triplet, against the definition row by row."""

import numpy as np
import pytest
from samples import CUPS

from ggnet.data.annotations import ImageRecord
from ggnet.eval.errors import CAUSES, counted, error_breakdown, triplet_causes
from ggnet.eval.predictions import ImagePrediction


def overlap(a, b):
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    area = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return common / (area - common)


def definition(prediction, record):
    """Cause and pair of each triplet by falling score, as CAUSES words them."""
    taken, result = set(), {}
    for row in np.argsort(-prediction.scores, kind="stable").tolist():
        label, verb = prediction.object_labels[row], prediction.verbs[row]
        human = [overlap(prediction.human_boxes[row], box) for box in record.boxes]
        object_ = [overlap(prediction.object_boxes[row], box) for box in record.boxes]
        facts = [
            (human[h] >= 0.5, object_[o] >= 0.5, record.labels[o] == label, v == verb)
            for h, o, v in record.pairs.tolist()
        ]
        same = [number for number, fact in enumerate(facts) if all(fact)]
        if same:
            pairs = record.pairs.tolist()
            best = max(same, key=lambda n: (min(human[pairs[n][0]], object_[pairs[n][1]]), -n))
            result[row] = ("duplicate" if best in taken else "correct", best)
            taken.add(best)
        elif any(h and o and c for h, o, c, _ in facts):
            result[row] = ("wrong verb", -1)
        elif any(h and o and v for h, o, _, v in facts):
            result[row] = ("wrong object class", -1)
        elif any(f >= 0.5 and x == 0 for f, x in zip(human, record.labels, strict=True)) and any(
            f >= 0.5 and x == label for f, x in zip(object_, record.labels, strict=True)
        ):
            result[row] = ("wrong pairing", -1)
        elif any(o and c and v for _, o, c, v in facts):
            result[row] = ("wrong human box", -1)
        elif any(h and c and v for h, _, c, v in facts):
            result[row] = ("wrong object box", -1)
        else:
            result[row] = ("background", -1)
    return [result[row] for row in range(len(prediction))]


def scene(rng, image_id, pairs=4, count=60):
    corners = rng.random((2 * pairs, 2)) * 60
    boxes = np.hstack([corners, corners + 15 + rng.random((2 * pairs, 2)) * 30])
    labels = np.tile([0, 1], pairs)
    labels[1::2] = rng.integers(1, 3, pairs)
    rows = np.stack([np.arange(0, 2 * pairs, 2), np.arange(1, 2 * pairs, 2)], 1)
    rows = np.column_stack([rows, rng.integers(0, 3, pairs)]).astype(np.int64)
    record = ImageRecord("x.jpg", image_id, None, boxes, labels, rows)
    if pairs:
        human, object_ = (
            boxes[rng.integers(0, len(boxes), count)] + rng.normal(0, 3, (count, 4))
            for _ in range(2)
        )
        near = rng.random(count) < 0.6
        chosen = rows[rng.integers(0, pairs, count)]
        human[near] = (boxes[chosen[:, 0]] + rng.normal(0, 3, (count, 4)))[near]
        object_[near] = (boxes[chosen[:, 1]] + rng.normal(0, 3, (count, 4)))[near]
    else:
        human = object_ = np.tile([0.0, 0, 9, 9], (count, 1))
    prediction = ImagePrediction(
        image_id,
        "x.jpg",
        human,
        object_,
        rng.integers(1, 3, count),
        rng.integers(0, 3, count),
        np.round(rng.random(count), 1),  # many are equal
    )
    return record, prediction


@pytest.mark.parametrize(("pairs", "count"), [(4, 60), (1, 30), (0, 5), (3, 0)])
def test_equals_the_definition(pairs, count):
    rng = np.random.default_rng(np.random.SeedSequence())
    seen = set()
    for _ in range(10):
        record, prediction = scene(rng, "a", pairs, count)
        causes, matched = triplet_causes(prediction, record)
        found = [(list(CAUSES)[c], m) for c, m in zip(causes, matched.tolist(), strict=True)]
        expected = definition(prediction, record)
        assert found == expected
        seen |= {cause for cause, _ in found}
    assert len(seen) >= (6 if pairs == 4 else 0)


def test_counted_are_the_best_of_each_hoi_as_many_as_it_has_pairs():
    rng = np.random.default_rng(np.random.SeedSequence())
    records, predictions = zip(*(scene(rng, name) for name in "cab"), strict=True)
    chosen = counted(predictions, records, CUPS)
    for verb, label in CUPS.hois:
        wanted = sum(
            int(((r.pairs[:, 2] == verb) & (r.labels[r.pairs[:, 1]] == label)).sum())
            for r in records
        )
        mine = [
            (-score, prediction.image_id, row, bool(looked))
            for prediction, looks in zip(predictions, chosen, strict=True)
            for row, (score, looked) in enumerate(zip(prediction.scores, looks, strict=True))
            if prediction.verbs[row] == verb and prediction.object_labels[row] == label
        ]
        looked = [looked for *_, looked in sorted(mine)]
        assert looked == [True] * min(wanted, len(mine)) + [False] * (len(mine) - wanted)
    # The breakdown is of these alone, and the others do not change what they are.
    total = dict.fromkeys(CAUSES, 0)
    for record, prediction, looks in zip(records, predictions, chosen, strict=True):
        causes, _ = triplet_causes(prediction, record)
        for cause in causes[looks]:
            total[list(CAUSES)[cause]] += 1
    assert error_breakdown(predictions, records, CUPS).to_dict() == total


def test_no_predictions():
    record, _ = scene(np.random.default_rng(0), "a")
    assert counted([], [record], CUPS) == []
    assert sum(error_breakdown([], [record], CUPS).to_dict().values()) == 0

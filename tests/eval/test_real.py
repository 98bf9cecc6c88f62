"""The metrics on the real annotations of HICO-DET."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hico_rules import no_frills, official

from ggnet.data.annotations import load_annotations
from ggnet.data.convert import convert
from ggnet.eval.hico import PROTOCOLS, evaluate
from ggnet.eval.predictions import ImagePrediction


@pytest.fixture(scope="module")
def hico(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hico")
    path = shared / "hicodet_instances_test2015.json"
    dataset = convert("hico-json", folder, test=path)
    records = load_annotations(dataset.splits["test"].annotations, None, dataset.vocabulary)
    return dataset, records


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_hico_ground_truth_scores_100_in_every_protocol(hico, protocol):
    """Whatever the scores; for No-Frills, whose first free pair wins, only in the file's order."""
    dataset, records = hico
    rng = np.random.default_rng(0)
    even = protocol == "no-frills"
    predictions = [
        ImagePrediction(
            record.image_id,
            record.file_name,
            record.boxes[record.pairs[:, 0]],
            record.boxes[record.pairs[:, 1]],
            record.labels[record.pairs[:, 1]],
            record.pairs[:, 2],
            np.ones(len(record.pairs)) if even else rng.random(len(record.pairs)),
        )
        for record in records
    ]
    result = evaluate(
        predictions, records, dataset.vocabulary, rare=dataset.rare, protocol=protocol
    )
    hundred = pytest.approx(100)
    groups = {"full": hundred, "rare": hundred, "non-rare": hundred}
    assert result.summary() == {"default": groups, "known-object": groups}
    assert result.ground_truth.sum() == 33405
    assert (result.ground_truth > 0).all()


def hard_predictions(records, vocabulary, rng, triplets=100):
    """Half of each image's triplets near its pairs, half anywhere: boxes and scores that repeat."""
    hois = np.array(vocabulary.hois)
    pairs_seen = np.concatenate([np.column_stack([r.labels[r.pairs[:, 1]], r.pairs[:, 2]])
                                 for r in records])  # fmt: skip
    predictions = []
    for record in records:
        count = triplets if len(record.pairs) else 0  # a few images have none
        chosen = record.pairs[rng.integers(0, max(len(record.pairs), 1), count)]
        boxes = record.boxes[chosen[:, :2]].astype(np.float64)
        boxes += rng.integers(-3, 4, boxes.shape) * 4.0
        boxes = np.sort(boxes.reshape(count, 2, 2, 2), axis=2).reshape(count, 2, 4)
        labels, verbs = record.labels[chosen[:, 1]], chosen[:, 2]
        other = rng.random(count) < 0.5
        labels, verbs = labels.copy(), verbs.copy()
        # Other classes, as often as they are in the file; a few of them at random.
        labels[other], verbs[other] = pairs_seen[rng.integers(0, len(pairs_seen), other.sum())].T
        strange = rng.random(count) < 0.05
        verbs[strange], labels[strange] = hois[rng.integers(0, len(hois), strange.sum())].T
        scores = rng.integers(1, 200, count) / 200
        predictions.append(
            ImagePrediction(
                record.image_id, record.file_name, boxes[:, 0], boxes[:, 1], labels, verbs, scores
            )
        )
    return predictions


def of_class(records, predictions, hois):
    """HOI -> its records and predictions, with what they hold of it alone; in the file's order."""
    number_of = {(verb, label): number for number, (verb, label) in enumerate(hois)}
    found = defaultdict(lambda: ([], []))
    for record, prediction in zip(records, predictions, strict=True):
        of_pairs, of_triplets = defaultdict(list), defaultdict(list)
        for pair in record.pairs:
            of_pairs[number_of[pair[2], record.labels[pair[1]]]].append(pair)
        for row, key in enumerate(zip(prediction.verbs, prediction.object_labels, strict=True)):
            if key in number_of:
                of_triplets[number_of[key]].append(row)
        for hoi in of_pairs.keys() | of_triplets.keys():
            rows = of_triplets[hoi]
            found[hoi][0].append(replace(record, pairs=np.array(of_pairs[hoi]).reshape(-1, 3)))
            found[hoi][1].append(
                replace(
                    prediction,
                    **{
                        name: getattr(prediction, name)[rows]
                        for name in (
                            "human_boxes",
                            "object_boxes",
                            "object_labels",
                            "verbs",
                            "scores",
                        )
                    },
                )
            )
    return found


@pytest.mark.slow
def test_every_class_at_full_size_equals_the_evaluators_own_steps(hico):
    dataset, records = hico
    hois = dataset.vocabulary.hois
    records = sorted(records, key=lambda record: record.image_id)
    predictions = hard_predictions(records, dataset.vocabulary, np.random.default_rng(5))
    parts = of_class(records, predictions, hois)
    results = {
        name: evaluate(predictions, records, dataset.vocabulary, protocol=name)
        for name in PROTOCOLS
    }
    for name, result in results.items():
        print(name, round(result.mean_ap(), 3))  # shown with -s
    for hoi, (verb, _) in enumerate(hois):
        by_official, by_no_frills = (
            steps(parts[hoi][1], parts[hoi][0], verb) for steps in (official, no_frills)
        )
        got = {name: result.ap["default"][hoi] for name, result in results.items()}
        expected = {"official": by_official, "ppdm": by_official, "no-frills": by_no_frills}
        assert got == pytest.approx(expected, rel=1e-12), hois[hoi]

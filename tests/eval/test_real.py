"""The metrics on the real annotations of HICO-DET."""

import numpy as np
import pytest

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

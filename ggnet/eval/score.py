"""Scoring a prediction file, whoever made it, against a dataset; no images are needed."""

import logging
from pathlib import Path

from ggnet.data.annotations import Dataset, hoi_counts
from ggnet.data.tables import vcoco_vocabulary
from ggnet.errors import UserError
from ggnet.eval import hico, vcoco
from ggnet.eval.foreign import read_any, read_vcoco_pickle
from ggnet.eval.report import Report, make_report


def score_file(
    path: str | Path,
    dataset: Dataset,
    split: str = "test",
    *,
    rare_threshold: int = 10,
    protocol: str = "official",
    points: str = "exact",
) -> Report:
    """V-COCO's metric where the split has its roles, else HICO's.

    Args:
        path: this package's JSON, PPDM's JSON, or V-COCO's pickle (`.pkl`, `.pickle`).
        rare_threshold, protocol, points: see `ggnet.eval.hico.evaluate`.

    Raises:
        UserError: the file or dataset is broken, or they do not belong together.
    """
    path = Path(path)
    records = dataset.load(split, look_for_images=False)
    pickled = path.suffix in (".pkl", ".pickle")
    if roles := dataset.splits[split].roles:
        truth = vcoco.read_roles(roles)
        if pickled:
            return Report(vcoco.evaluate(read_vcoco_pickle(path), truth), None, None)
        predictions = read_any(path, records, dataset.vocabulary)
        found = vcoco.role_predictions(predictions, dataset.vocabulary)
        result = vcoco.evaluate(found, truth)
        return make_report(result, predictions, records, dataset.vocabulary)
    if pickled:
        raise UserError(
            f"{path} is a V-COCO pickle, but split '{split}' of {dataset.root} has no roles to "
            "score it with; `ggnet data convert vcoco-official` makes a dataset that has them"
        )
    counts = None
    if dataset.rare is None and "train" in dataset.splits:
        train = dataset.load("train", look_for_images=False)
        counts = hoi_counts(train, dataset.vocabulary)
    warn_without_roles(dataset, split)
    predictions = read_any(path, records, dataset.vocabulary)
    result = hico.evaluate(
        predictions,
        records,
        dataset.vocabulary,
        train_counts=counts,
        rare_threshold=rare_threshold,
        rare=dataset.rare,
        protocol=protocol,
        points=points,
    )
    return make_report(result, predictions, records, dataset.vocabulary)


def warn_without_roles(dataset: Dataset, split: str = "test") -> None:
    """Say so where V-COCO is scored by HICO's metric because its roles are not there."""
    if dataset.vocabulary.name == vcoco_vocabulary().name and not dataset.splits[split].roles:
        logging.getLogger("ggnet").warning(
            f"split '{split}' of {dataset.root} has no roles, so this is HICO's metric on V-COCO's "
            "pairs; `ggnet data convert vcoco-official` makes a dataset with V-COCO's own"
        )

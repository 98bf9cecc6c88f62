"""The one way from predictions to metrics, for networks and for files; no images are needed."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ggnet.config import EvalConfig
from ggnet.data.annotations import Dataset, ImageRecord
from ggnet.data.tables import vcoco_vocabulary
from ggnet.errors import UserError, reader
from ggnet.eval import hico, vcoco
from ggnet.eval.foreign import read_any, read_vcoco_pickle
from ggnet.eval.hico_mat import read_hico_mat
from ggnet.eval.predictions import ImagePrediction
from ggnet.eval.report import Report


def score(
    predictions: Sequence[ImagePrediction],
    dataset: Dataset,
    split: str,
    config: EvalConfig,
    records: Sequence[ImageRecord] | None = None,
    missing_images: int = 0,
) -> Report:
    """V-COCO's metric where the split has its roles, else HICO's.

    Rare are the HOIs that the dataset lists, else those with few pairs in its training split. The
    means of seen and unseen HOIs are there if `dataset.unseen` is.

    Args:
        config: protocol, recall points and which HOIs are rare.
        records: the split's, where only some of its images were looked at; None: all of them.
        missing_images: how many the split has beside `records`.

    Raises:
        UserError: the dataset is broken, or the predictions do not belong to the split.
    """
    vocabulary = dataset.vocabulary
    if records is None:
        records = dataset.load(split, look_for_images=False)
    if roles := dataset.splits[split].roles:
        found = vcoco.role_predictions(predictions, vocabulary)
        truth = vcoco.read_roles(roles)
        if missing_images:
            truth = {r.image_id: truth[r.image_id] for r in records if r.image_id in truth}
        result = vcoco.evaluate(found, truth)
    else:
        result = hico.evaluate(
            predictions,
            records,
            vocabulary,
            train_counts=dataset.train_counts if dataset.rare is None else None,
            rare_threshold=config.rare_threshold,
            rare=dataset.rare,
            protocol=config.protocol,
            recall_points=config.recall_points,
            unseen=dataset.unseen,
        )
    return Report(
        result, vocabulary, records, predictions, split, missing_images, dataset.train_counts
    )


@reader("predictions for the images of the split")
def score_file(path: str | Path, dataset: Dataset, split: str, config: EvalConfig) -> Report:
    """`score` of a prediction file, whoever made it.

    Args:
        path: this package's JSON, PPDM's JSON, HICO-DET's `.mat`, or V-COCO's pickle (`.pkl`,
            `.pickle`).

    Raises:
        UserError: the file or dataset is broken, or they do not belong together.
    """
    path = Path(path)
    records = dataset.load(split, look_for_images=False)
    if path.suffix in (".pkl", ".pickle"):
        roles = dataset.splits[split].roles
        if not roles:
            raise UserError(
                f"{path} is a V-COCO pickle, but split '{split}' of {dataset.root} has no roles to "
                "score it with; `ggnet data convert vcoco-official` makes a dataset that has them"
            )
        result = vcoco.evaluate(read_vcoco_pickle(path), vcoco.read_roles(roles))
        return Report(result, dataset.vocabulary, records, None, split)
    warn_without_roles(dataset, split)
    read = read_hico_mat if path.suffix == ".mat" else read_any
    return score(read(path, records, dataset.vocabulary), dataset, split, config, records)


def warn_without_roles(dataset: Dataset, split: str) -> None:
    """Say so where V-COCO is scored by HICO's metric because its roles are not there."""
    if dataset.vocabulary.name == vcoco_vocabulary().name and not dataset.splits[split].roles:
        logging.getLogger("ggnet").warning(
            f"split '{split}' of {dataset.root} has no roles, so this is HICO's metric on V-COCO's "
            "pairs; `ggnet data convert vcoco-official` makes a dataset with V-COCO's own"
        )

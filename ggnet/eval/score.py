"""Scoring a prediction file, whoever made it, against a dataset; no images are needed."""

from pathlib import Path

from ggnet.data.annotations import Dataset, hoi_counts
from ggnet.errors import UserError
from ggnet.eval import hico, vcoco
from ggnet.eval.foreign import read_any, read_vcoco_pickle


def score_file(
    path: str | Path,
    dataset: Dataset,
    split: str = "test",
    *,
    rare_threshold: int = 10,
    protocol: str = "official",
    points: str = "exact",
) -> hico.HicoResult | vcoco.VcocoResult:
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
        if pickled:
            found = read_vcoco_pickle(path)
        else:
            predictions = read_any(path, records, dataset.vocabulary)
            found = vcoco.detections(predictions, dataset.vocabulary)
        return vcoco.evaluate(found, vcoco.read_roles(roles))
    if pickled:
        raise UserError(
            f"{path} is a V-COCO pickle, but split '{split}' of {dataset.root} has no roles to "
            "score it with; `ggnet data convert vcoco-official` makes a dataset that has them"
        )
    counts = None
    if dataset.rare is None and "train" in dataset.splits:
        train = dataset.load("train", look_for_images=False)
        counts = hoi_counts(train, dataset.vocabulary)
    return hico.evaluate(
        read_any(path, records, dataset.vocabulary),
        records,
        dataset.vocabulary,
        train_counts=counts,
        rare_threshold=rare_threshold,
        rare=dataset.rare,
        protocol=protocol,
        points=points,
    )

"""Predictions for other people's evaluators: `ggnet eval --write FORMAT`."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggnet.data.annotations import ImageRecord
from ggnet.data.tables import vcoco_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError
from ggnet.eval.foreign import write_ppdm, write_vcoco_pickle
from ggnet.eval.hico_mat import check_hico, write_hico_mat
from ggnet.eval.predictions import ImagePrediction
from ggnet.eval.report import Report
from ggnet.eval.vcoco import role_predictions

Write = Callable[[Path, Sequence[ImagePrediction], Sequence[ImageRecord], Vocabulary], None]


@dataclass(frozen=True)
class Format:
    """A foreign file of predictions."""

    file_name: str
    write: Write
    check: Callable[[Vocabulary], None]  # refuses names that the format does not have


def _ppdm(
    path: Path,
    predictions: Sequence[ImagePrediction],
    records: Sequence[ImageRecord],
    vocabulary: Vocabulary,
) -> None:
    write_ppdm(path, predictions, vocabulary)


def _vcoco(
    path: Path,
    predictions: Sequence[ImagePrediction],
    records: Sequence[ImageRecord],
    vocabulary: Vocabulary,
) -> None:
    for prediction in predictions:
        if not prediction.image_id.isdecimal():
            raise UserError(
                f"V-COCO's pickle holds COCO's image ids; image {prediction.image_id!r} has none. "
                "Convert the dataset with vcoco-official or vcoco-json"
            )
    write_vcoco_pickle(path, role_predictions(predictions, vocabulary))


def _check_vcoco(vocabulary: Vocabulary) -> None:
    others = set(vocabulary.verbs) - set(vcoco_vocabulary(()).verbs)
    if others:
        raise UserError(
            f"V-COCO's pickle holds its 25 action-roles; '{vocabulary.name}' has other verbs, such "
            f"as '{min(others)}'"
        )


FORMATS = {
    "ppdm-json": Format("ppdm.json", _ppdm, lambda vocabulary: None),
    "vcoco-pickle": Format("vcoco.pkl", _vcoco, _check_vcoco),
    "hico-mat": Format("detections.mat", write_hico_mat, check_hico),
}


def check_writable(names: Sequence[str], vocabulary: Vocabulary) -> None:
    """Say before an evaluation what could not be written after it.

    Raises:
        UserError: an unknown format, or one that lacks the vocabulary's names.
    """
    for name in names:
        if name not in FORMATS:
            match = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"; did you mean '{match[0]}'?" if match else "."
            raise UserError(f"--write {name}{hint} Expected one of {', '.join(FORMATS)}")
        FORMATS[name].check(vocabulary)


def write_foreign(name: str, report: Report, folder: Path) -> Path:
    """Write a report's predictions in a format of FORMATS; the file.

    Raises:
        UserError: the report has no triplets or only some of the images, or as the format's writer.
    """
    format_ = FORMATS[name]
    path = folder / format_.file_name
    if report.predictions is None:
        raise UserError(f"--write {name}: a V-COCO pickle has no triplets to write")
    if report.missing_images:
        raise UserError(
            f"--write {name}: {report.missing_images} images are missing, and other evaluators "
            "score the whole split; complete the images and leave out --partial"
        )
    format_.write(path, report.predictions, report.records, report.vocabulary)
    return path

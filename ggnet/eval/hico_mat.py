"""Detections in a .mat file as HICO-DET's official evaluator (ywchao/ho-rcnn) loads them.

`detections.mat` of its `format = 'all'`: a cell array `all_boxes` of (600 HOIs, images), the HOIs
in the official order, the images in that of `anno.mat`'s lists, which is by file name. A cell holds
(n, 9) numbers: the human's and the object's box and the score; the boxes are inclusive pixels
counted from 0, to which the evaluator adds 1.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import ImageRecord
from ggnet.data.tables import hico_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError, reader
from ggnet.eval.mat_cells import write_cells
from ggnet.eval.predictions import INCLUSIVE, ImagePrediction, finite
from ggnet.io import atomic_write
from ggnet.limited import call_limited

KEY = "all_boxes"


def check_hico(vocabulary: Vocabulary) -> None:
    """Refuse a vocabulary whose HOIs are not HICO-DET's in their order.

    Raises:
        UserError: says so.
    """
    official = hico_vocabulary()
    if any(
        getattr(vocabulary, what) != getattr(official, what)
        for what in ("objects", "verbs", "hois")
    ):
        raise UserError(
            f"HICO-DET's .mat holds its 600 HOIs in their order; those of '{vocabulary.name}' are "
            "others"
        )


def write_hico_mat(
    path: str | Path,
    predictions: Sequence[ImagePrediction],
    records: Sequence[ImageRecord],
    vocabulary: Vocabulary,
) -> None:
    """Write the predictions of a split; pairs that are no HOI are left out, as nobody scores them.

    Args:
        records: the split's, all of them: the evaluator asserts a column for every image.

    Raises:
        UserError: the HOIs are not HICO-DET's, or the file cannot be written.
    """
    check_hico(vocabulary)
    column = {name: index for index, name in enumerate(_order(records))}
    cells = {}
    for prediction in predictions:
        hois = vocabulary.hoi_index(prediction.verbs, prediction.object_labels)
        rows = np.column_stack(
            [
                prediction.human_boxes.astype(np.float64) - INCLUSIVE,
                prediction.object_boxes.astype(np.float64) - INCLUSIVE,
                prediction.scores,
            ]
        )
        for hoi in np.unique(hois[hois >= 0]).tolist():
            cells[hoi, column[prediction.file_name]] = rows[hois == hoi]
    with atomic_write(path) as file:
        write_cells(file, KEY, (len(vocabulary.hois), len(column)), cells, columns=9)


@reader("HICO-DET's detections.mat")
def read_hico_mat(
    path: str | Path, records: Sequence[ImageRecord], vocabulary: Vocabulary
) -> list[ImagePrediction]:
    """The inverse of `write_hico_mat`, for whoever wrote the file.

    Raises:
        UserError: not such a file, or of other images than the split's.
    """
    check_hico(vocabulary)
    shape = len(vocabulary.hois), len(records)
    images, hois, rows = call_limited(decode_hico_mat, Path(path), shape)
    by_name = {record.file_name: record for record in records}
    verbs, objects = np.array(vocabulary.hois, dtype=np.int64).T
    bounds = np.searchsorted(images, np.arange(len(records) + 1))
    result = []
    for number, name in enumerate(_order(records)):
        mine = slice(bounds[number], bounds[number + 1])
        result.append(
            ImagePrediction(
                by_name[name].image_id,
                name,
                rows[mine, :4] + INCLUSIVE,
                rows[mine, 4:8] + INCLUSIVE,
                objects[hois[mine]],
                verbs[hois[mine]],
                rows[mine, 8],
            )
        )
    return result


def decode_hico_mat(
    path: Path, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, HOI and the nine numbers of each row, sorted by image; in this process, which a
    changed byte of the file can end."""
    from scipy.io import loadmat

    expected = f"a cell array {KEY} of {shape[0]} HOIs and {shape[1]} images, (n, 9) numbers each"
    try:
        cells = np.asarray(loadmat(path, variable_names=[KEY])[KEY])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # SciPy raises many kinds for files that are no MATLAB files
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not HICO-DET's .mat ({problem}); expected {expected}") from None
    if cells.shape != shape or cells.dtype != object:
        raise UserError(f"{path}: {KEY} is {cells.dtype} of {cells.shape}; expected {expected}")
    parts: list[tuple[int, int, np.ndarray]] = []
    for image, hoi in np.ndindex(shape[::-1]):
        if np.size(cell := cells[hoi, image]):
            parts.append((image, hoi, _numbers(cell, f"{path}, HOI {hoi + 1}, image {image + 1}")))
    counts = [len(part[2]) for part in parts]
    return (
        np.repeat([part[0] for part in parts], counts).astype(np.int64),
        np.repeat([part[1] for part in parts], counts).astype(np.int64),
        np.concatenate([np.zeros((0, 9)), *(part[2] for part in parts)]),
    )


def _numbers(cell: Any, where: str) -> np.ndarray:
    try:
        return finite(cell, 9)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}; expected (n, 9) finite numbers") from None


def _order(records: Sequence[ImageRecord]) -> list[str]:
    return sorted(record.file_name for record in records)

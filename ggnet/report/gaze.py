"""Where a run's network looked for the triplets of its predictions."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ggnet.config import Config
from ggnet.data.annotations import ImageRecord
from ggnet.data.dataset import make_loader, worker_errors
from ggnet.engine.checkpoint import Checkpoint
from ggnet.engine.inference import Predictor
from ggnet.eval.predictions import Gaze, ImagePrediction

BEST = 10  # triplets of an image whose ActPoints are kept, beside those that causes are counted of
SAME_PIXELS = 1.0  # boxes of the same triplet, when the network runs on another device
LIMIT = 32767


@dataclass(eq=False)
class Looks:
    """The ActPoints of C interaction points of an image; many of its triplets share one.

    `steps` holds, S gaze steps of K points for each of the C, x and y in 1 / 8192 of the image's
    longer side (int16), and then their weights in 1 / 255 (uint8).
    """

    points: np.ndarray  # (C, 2) original pixels
    of_triplet: np.ndarray  # (n,) int64 index of each triplet's point, -1: not kept
    steps: bytes
    shape: tuple[int, int]  # S, K


def look(
    checkpoints: Sequence[Checkpoint],
    config: Config,
    records: Sequence[ImageRecord],
    predictions: dict[str, ImagePrediction],
    kept: dict[str, np.ndarray],
    progress: Callable[[int, int], None],
) -> dict[str, Looks]:
    """Run the network once more over the images, and find each triplet of `predictions` again.

    Args:
        checkpoints: of a run: the predictions are of the one that gives them again. It is not said
            which that is: `ggnet train` writes the last one's, `ggnet eval` the best one's.
        config: data, device and batch size.
        predictions, kept: by image id; kept: (n,) bool, triplets whose ActPoints are wanted.

    Returns:
        By image id; an image of which no triplet is found again has none. If that is so for all
        images, a warning says what to do.
    """
    for checkpoint in checkpoints:
        predictor = Predictor.of(checkpoint, config.train.device, config)
        looks: dict[str, Looks] = {}
        loader = make_loader(list(records), predictor.vocabulary, config, train=False)
        with worker_errors():
            for number, batch in enumerate(loader, 1):
                for found, gaze in predictor.look(batch.images, batch.meta):
                    if (known := predictions.get(found.image_id)) is not None:
                        seen = _looks(known, kept[found.image_id], found, gaze)
                        if seen is not None:
                            looks[found.image_id] = seen
                if not looks and checkpoint is not checkpoints[-1]:
                    break  # predictions of another checkpoint
                progress(number, len(loader))
        if looks:
            return looks
    logging.getLogger("ggnet").warning(
        "no ActPoints in the report: the run's checkpoints do not give its predictions. Evaluate "
        "the run again (`ggnet eval`) for predictions of its best checkpoint"
    )
    return {}


def _looks(
    known: ImagePrediction, wanted: np.ndarray, found: ImagePrediction, gaze: Gaze
) -> Looks | None:
    """The gaze of the wanted triplets; None: not one of them was found."""
    of_triplet = np.full(len(known), -1)
    of_cell: dict[tuple, int] = {}
    cells: list[int] = []  # a row of `found` for each interaction point
    for row, match in zip(
        np.flatnonzero(wanted).tolist(), _matches(known, found, wanted), strict=True
    ):
        if match >= 0:
            key = tuple(gaze.points[match].tolist())
            if key not in of_cell:
                of_cell[key] = len(cells)
                cells.append(match)
            of_triplet[row] = of_cell[key]
    if not cells:
        return None
    xy = gaze.actpoints[:, cells].transpose(1, 0, 2, 3)  # (C, S, K, 2)
    weights = gaze.weights[:, cells].transpose(1, 0, 2)
    width, height = found.size
    units = np.round(xy * (8192 / max(width, height))).clip(-LIMIT, LIMIT).astype("<i2")
    steps = units.tobytes() + np.round(weights * 255).astype(np.uint8).tobytes()
    return Looks(gaze.points[cells], of_triplet, steps, xy.shape[1:3])


def _matches(known: ImagePrediction, found: ImagePrediction, wanted: np.ndarray) -> list[int]:
    """For each wanted triplet of `known` the same one of `found`, -1: none."""
    if not len(found):
        return [-1] * int(wanted.sum())
    off = np.zeros((int(wanted.sum()), len(found)))
    for name in ("human_boxes", "object_boxes"):
        a, b = getattr(known, name)[wanted], getattr(found, name)
        off = np.maximum(off, np.abs(a[:, None] - b).max(axis=2))
    for name in ("object_labels", "verbs"):
        off[getattr(known, name)[wanted][:, None] != getattr(found, name)] = np.inf
    best = off.argmin(axis=1)
    fits = off[np.arange(len(best)), best] <= SAME_PIXELS
    return np.where(fits, best, -1).tolist()

"""Runs side by side on the same images (the paper's Figures 7 and 8), and errors (Figure 9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.boxes import iou
from ggnet.eval.errors import CAUSES
from ggnet.eval.hico import MIN_IOU
from ggnet.eval.predictions import ImagePrediction
from ggnet.viz import style
from ggnet.viz.canvas import Canvas
from ggnet.viz.draw import draw_predictions, draw_truth, match_truth
from ggnet.viz.page import compose, panel_row, paper, widened

RIGHT, PREDICTED = (0, 0, 0), (220, 30, 30)
_PANEL = 512  # pixels, the width of an error's picture


@dataclass(eq=False)
class Failure:
    """One wrong triplet: the image, what was predicted there, and which triplet it is."""

    image: np.ndarray  # uint8 RGB
    record: ImageRecord
    prediction: ImagePrediction
    row: int
    cause: str


def draw_runs(
    scenes: Sequence[tuple[np.ndarray, ImageRecord, Sequence[ImagePrediction]]],
    names: Sequence[str],
    vocabulary: Vocabulary,
    *,
    top: int | None = None,
) -> np.ndarray:
    """One page: a row an image, with the ground truth (marked what no run has found) and each
    run's best triplets, ticked and crossed.

    Args:
        scenes: image (uint8 RGB), annotations, one prediction of each run.
        names: of the runs.
        top: triplets of each picture; None: as many as the image has annotated ones.

    Returns:
        A uint8 RGB picture.
    """
    rows = []
    for image, record, predictions in scenes:
        count = max(1, len(record.pairs)) if top is None else top
        best = [_best(prediction, count) for prediction in predictions]
        found = {row for each in best for row in match_truth(each, record).tolist()}
        missed = set(range(len(record.pairs))) - found
        drawn = [
            draw_predictions(image, each, vocabulary, threshold=0.0, top=count, truth=record)
            for each in best
        ]
        rows.append([draw_truth(image, record, vocabulary, missed), *drawn])
    return compose(rows, ["Ground truth", *names], matches=True, weights=False)


def _best(prediction: ImagePrediction, count: int) -> ImagePrediction:
    """Its first triplets alone."""
    parts = ("human_boxes", "object_boxes", "object_labels", "verbs", "scores")
    kept = {name: getattr(prediction, name)[:count] for name in parts}
    return replace(prediction, **kept, human_scores=None, object_scores=None)


def draw_failures(
    failures: Mapping[str, Sequence[Failure]],
    counts: Mapping[str, int],
    vocabulary: Vocabulary,
) -> np.ndarray:
    """One page: a block a cause, with what was right in black and what was predicted in red.

    Args:
        failures: cause (of `ggnet.eval.errors.CAUSES`) -> errors of that kind.
        counts: how many errors of each kind there are in all.

    Returns:
        A uint8 RGB picture.
    """
    gap = round(_PANEL / 40)
    strips = [_heading("Most confident errors: right in black, predicted in red", "", 1.35)]
    for cause, found in failures.items():
        text = f"{cause}, {counts[cause]} of {sum(counts.values())} detections"
        strips.append(_heading(text, CAUSES[cause], 1))
        strips.append(panel_row([_draw_failure(each, vocabulary) for each in found], _PANEL, gap))
    full = max(strip.shape[1] for strip in strips)
    return np.concatenate([widened(strip, full) for strip in strips])


def _draw_failure(failure: Failure, vocabulary: Vocabulary) -> np.ndarray:
    prediction, row = failure.prediction, failure.row
    canvas = Canvas(failure.image)
    meant = meant_pair(failure)
    if meant is not None:
        boxes = failure.record.boxes[list(meant)]
        canvas.outline([(box, (255, 255, 255)) for box in boxes], 5)
        _draw_pair(canvas, *boxes, RIGHT)
    _draw_pair(canvas, prediction.human_boxes[row], prediction.object_boxes[row], PREDICTED)
    verb, label = int(prediction.verbs[row]), int(prediction.object_labels[row])
    said = f"{vocabulary.verbs[verb]} {vocabulary.objects[label]} {prediction.scores[row]:.2f}"
    lines = [(_truth_text(failure, meant, vocabulary), RIGHT), (said, PREDICTED)]
    return np.concatenate([canvas.pixels, _caption(lines, canvas.pixels.shape[1])])


def _draw_pair(canvas: Canvas, human: np.ndarray, object_: np.ndarray, color: style.Color) -> None:
    canvas.outline([(human, color), (object_, color)], 2)
    centers = np.stack([(box[:2] + box[2:]) / 2 for box in (human, object_)])
    canvas.outline([(centers, color)], 1)
    for center, fill in zip(centers, (style.HUMAN, style.OBJECT), strict=True):
        canvas.disc(center, 3, fill, color)


def meant_pair(failure: Failure) -> tuple[int, int] | None:
    """The annotated boxes (human, object) that the triplet comes closest to.

    The pair with the largest sum of the two overlaps, of equal ones the person's; where only a box
    is off, of those with the predicted verb and object. None where no annotated pair shares a box
    with the triplet.
    """
    record, prediction, row = failure.record, failure.prediction, failure.row
    if not len(record.pairs) or failure.cause == "background":
        return None
    human, object_, verbs = record.pairs.T
    overlap = 1.001 * _overlaps(prediction.human_boxes[row], record.boxes[human])
    overlap = overlap + _overlaps(prediction.object_boxes[row], record.boxes[object_])
    if failure.cause in ("duplicate", "wrong human box", "wrong object box"):
        same = (verbs == prediction.verbs[row]) & (
            record.labels[object_] == prediction.object_labels[row]
        )
        overlap = np.where(same, overlap, -1)
    best = int(overlap.argmax())
    if overlap[best] < MIN_IOU:
        return None
    return int(human[best]), int(object_[best])


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return iou(np.repeat(box[None], len(boxes), 0), boxes)


def _truth_text(failure: Failure, meant: tuple[int, int] | None, vocabulary: Vocabulary) -> str:
    if meant is None:
        return "no interaction"
    pairs, labels = failure.record.pairs, failure.record.labels
    verbs = pairs[(pairs[:, :2] == meant).all(axis=1), 2]
    names = ", ".join(vocabulary.verbs[verb] for verb in verbs.tolist())
    text = f"{names} {vocabulary.objects[labels[meant[1]]]}"
    return f"{text}, found already" if failure.cause == "duplicate" else text


def _caption(lines: Sequence[tuple[str, style.Color]], width: int) -> np.ndarray:
    """Lines of text below a picture."""
    size = round(min(max(width / 22, 19), 44))
    height = round(size * 1.5)
    strip = Image.fromarray(paper(height * len(lines) + size // 2, width))
    draw = ImageDraw.Draw(strip)
    for number, (text, color) in enumerate(lines):
        at = (size * 0.2, number * height + size * 0.2)
        style.draw_text(draw, at, text.replace("_", " "), color, size)
    return np.array(strip)


def _heading(title: str, note: str, scale: float) -> np.ndarray:
    size, small = round(28 * scale), 22
    width = style.text_length(title, size) + style.text_length(note, small) + 4 * size
    strip = Image.fromarray(paper(round(size * 2.2), round(width)))
    draw = ImageDraw.Draw(strip)
    end = style.draw_text(draw, (size * 0.5, size * 0.6), title, style.INK, size)
    style.draw_text(draw, (end + size * 0.8, size * 0.6 + (size - small)), note, style.MUTED, small)
    return np.array(strip)

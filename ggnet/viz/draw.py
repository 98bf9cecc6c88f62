"""Pictures of human-object interactions in the manner of the paper's Figure 4."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from ggnet.data.annotations import ImageRecord
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.predictions import Gaze, ImagePrediction
from ggnet.viz import style
from ggnet.viz.canvas import Canvas, Chip, TextLine
from ggnet.viz.defaults import LISTED, THRESHOLD, TOP
from ggnet.viz.page import compose

_SAME_BOX = 0.5  # boxes that overlap more than this are drawn as one


@dataclass(eq=False)
class _Pair:
    """One human and one object in a picture, with a line of text for each verb."""

    human: np.ndarray
    object_: np.ndarray
    label: int
    point: np.ndarray
    lines: list[TextLine] = field(default_factory=list)
    verbs: set[int] = field(default_factory=set)


def draw_predictions(
    image: np.ndarray,
    prediction: ImagePrediction,
    vocabulary: Vocabulary,
    gaze: Gaze | None = None,
    *,
    threshold: float = THRESHOLD,
    top: int = TOP,
    truth: ImageRecord | None = None,
    listed: bool = True,
) -> np.ndarray:
    """The triplets of one image: boxes, link, interaction point, `verb object score`.

    Args:
        image: uint8 RGB (H, W, 3).
        gaze: from the same call as `prediction`; without it, the interaction point is drawn in
            the middle between the two boxes.
        threshold: lowest score drawn.
        top: most triplets drawn.
        truth: if given, each triplet gets a tick or a cross: found in the ground truth or not.
        listed: number many triplets in the picture and list them below it.

    Returns:
        A new uint8 RGB picture of the image's size; of a multiple of it if that is too small for
        text (longer side below 512); higher by the list from LISTED triplets on.
    """
    matched = None if truth is None else match_truth(prediction, truth) >= 0
    pairs: list[_Pair] = []
    shown = 0
    for i in range(len(prediction)):
        if shown == top or prediction.scores[i] < threshold:
            break
        human, object_ = prediction.human_boxes[i], prediction.object_boxes[i]
        point = _middle(human, object_) if gaze is None else gaze.points[i]
        label, verb = int(prediction.object_labels[i]), int(prediction.verbs[i])
        line = _line(prediction, vocabulary, i)
        if matched is not None:
            line = [("✓ ", style.RIGHT) if matched[i] else ("✗ ", style.WRONG), *line]
        shown += _add(pairs, human, object_, label, point, verb, line)
    canvas = Canvas(image)
    _draw_pairs(canvas, pairs, listed)
    if not pairs:
        lines = [[(f"no interaction of {threshold:.2g} or more", _WHITE)]]
        if len(prediction):
            lines.append([("the best: ", _SCORE), *_line(prediction, vocabulary, 0)])
        canvas.note(lines, style.MUTED)
    return canvas.pixels


def draw_truth(
    image: np.ndarray,
    record: ImageRecord,
    vocabulary: Vocabulary,
    missed: Collection[int] = (),
    listed: bool = True,
) -> np.ndarray:
    """The annotated interactions of one image; see `draw_predictions`.

    Args:
        missed: rows of `record.pairs` that a prediction did not find; they get a mark.
    """
    pairs: list[_Pair] = []
    for row, (human, object_, verb) in enumerate(record.pairs.tolist()):
        boxes, label = record.boxes[[human, object_]], int(record.labels[object_])
        line = [(_name(vocabulary, verb, label), _WHITE)]
        if row in missed:
            line = [("○ ", style.WRONG), (line[0][0], style.WRONG)]
        _add(pairs, *boxes, label, _middle(*boxes), verb, line)
    canvas = Canvas(image)
    _draw_pairs(canvas, pairs, listed)
    if not pairs:
        canvas.note([[("no interaction", _WHITE)]], style.MUTED)
    return canvas.pixels


def draw_actpoints(
    image: np.ndarray,
    prediction: ImagePrediction,
    vocabulary: Vocabulary,
    gaze: Gaze,
    *,
    step: int,
    triplet: int = 0,
    threshold: float = THRESHOLD,
) -> np.ndarray:
    """The ActPoints that gaze step `step` (from 0) used for one triplet.

    Colors are the ranks of the weights, since these lie close together; sizes are the weights.
    A triplet below the threshold is marked as such.
    """
    canvas = Canvas(image)
    if triplet >= len(prediction):
        canvas.note([[("no interaction", _WHITE)]], style.MUTED)
        return canvas.pixels
    canvas.dim()
    human, object_ = prediction.human_boxes[triplet], prediction.object_boxes[triplet]
    canvas.outline([(human, style.HUMAN), (object_, style.OBJECT)], 1)
    canvas.outline([(np.stack([_center(human), _center(object_)]), (200, 200, 200))], 1)
    weights = gaze.weights[step, triplet]
    order = weights.argsort()  # the heaviest on top
    for rank, k in enumerate(order):
        color = style.weight_color(rank / max(len(order) - 1, 1))
        canvas.disc(
            gaze.actpoints[step, triplet, k], 3.5 + 2.5 * weights[k], color, (245, 245, 245)
        )
    canvas.target(gaze.points[triplet], style.PAIRS[0])
    line = _line(prediction, vocabulary, triplet)
    if below := prediction.scores[triplet] < threshold:
        line = [*line, (f", below {threshold:.2g}", style.WRONG)]
    canvas.note([line], style.MUTED if below else style.PAIRS[0])
    return canvas.pixels


def draw_gaze(
    image: np.ndarray,
    prediction: ImagePrediction,
    gaze: Gaze,
    vocabulary: Vocabulary,
    *,
    threshold: float = THRESHOLD,
    top: int = TOP,
) -> np.ndarray:
    """Prediction and the ActPoints of the top triplet in every gaze step, with a legend."""
    drawn = draw_predictions(image, prediction, vocabulary, gaze, threshold=threshold, top=top)
    panels = [drawn, *_gaze_panels(image, prediction, vocabulary, gaze, threshold)]
    titles = ["Prediction", *_gaze_titles(gaze)]
    return compose([panels], titles, matches=False, weights=len(panels) > 1)


def draw_comparison(
    image: np.ndarray,
    record: ImageRecord,
    prediction: ImagePrediction,
    gaze: Gaze,
    vocabulary: Vocabulary,
    *,
    threshold: float = THRESHOLD,
    top: int = TOP,
) -> np.ndarray:
    """Ground truth, prediction, and the ActPoints of the top triplet, side by side with a legend.

    Small images stand in one row, larger ones in two columns.
    """
    scene = (image, record, prediction, gaze)
    return draw_grid([scene], vocabulary, threshold=threshold, top=top)


def draw_grid(
    scenes: Sequence[tuple[np.ndarray, ImageRecord, ImagePrediction, Gaze]],
    vocabulary: Vocabulary,
    *,
    threshold: float = THRESHOLD,
    top: int = TOP,
) -> np.ndarray:
    """One page with the panels of `draw_comparison` for several scenes, a row each."""
    rows = []
    for image, record, prediction, gaze in scenes:
        drawn = draw_predictions(
            image, prediction, vocabulary, gaze, threshold=threshold, top=top, truth=record
        )
        panels = _gaze_panels(image, prediction, vocabulary, gaze, threshold)
        found = match_truth(prediction, record)[prediction.scores >= threshold]
        missed = set(range(len(record.pairs))) - set(found.tolist())
        rows.append([draw_truth(image, record, vocabulary, missed), drawn, *panels])
    titles = ["Ground truth", "Prediction", *_gaze_titles(scenes[0][3])]
    return compose(rows, titles, matches=True, weights=len(titles) > 2)


_WHITE = (255, 255, 255)
_SCORE = (205, 210, 220)


def _gaze_panels(
    image: np.ndarray,
    prediction: ImagePrediction,
    vocabulary: Vocabulary,
    gaze: Gaze,
    threshold: float,
) -> list[np.ndarray]:
    return [
        draw_actpoints(image, prediction, vocabulary, gaze, step=step, threshold=threshold)
        for step in range(len(gaze.actpoints))
    ]


def _gaze_titles(gaze: Gaze) -> list[str]:
    return [f"Gaze {step + 1}" for step in range(len(gaze.actpoints))]


def match_truth(prediction: ImagePrediction, truth: ImageRecord) -> np.ndarray:
    """(n,) int64: the row of `truth.pairs` that the triplet finds, both boxes with IoU of 0.5 or
    more, and no triplet before it found; -1: none."""
    found = np.full(len(prediction), -1)
    left = dict(enumerate(truth.pairs.tolist()))
    for i in range(len(prediction)):
        for row, (human, object_, verb) in left.items():
            if (
                verb == prediction.verbs[i]
                and truth.labels[object_] == prediction.object_labels[i]
                and _iou(truth.boxes[human], prediction.human_boxes[i]) >= 0.5
                and _iou(truth.boxes[object_], prediction.object_boxes[i]) >= 0.5
            ):
                found[i] = row
                del left[row]
                break
    return found


def _add(
    pairs: list[_Pair],
    human: np.ndarray,
    object_: np.ndarray,
    label: int,
    point: np.ndarray,
    verb: int,
    line: TextLine,
) -> bool:
    """Give the line to the pair with these boxes, made if there is none; False: said already."""
    for pair in pairs:
        same = _iou(pair.human, human) > _SAME_BOX and _iou(pair.object_, object_) > _SAME_BOX
        if same and pair.label == label:
            break
    else:
        pair = _Pair(human, object_, label, point)
        pairs.append(pair)
    if verb in pair.verbs:
        return False
    pair.verbs.add(verb)
    pair.lines.append(line)
    return True


def _draw_pairs(canvas: Canvas, pairs: list[_Pair], listed: bool) -> None:
    boxes: list[tuple[np.ndarray, style.Color]] = []
    for color, name in ((style.OBJECT, "object_"), (style.HUMAN, "human")):
        kind: list[np.ndarray] = []
        for pair in pairs:
            box = getattr(pair, name)
            if all(_iou(box, other) < 0.9 for other in kind):
                kind.append(box)
        boxes += [(box, color) for box in kind]
    canvas.outline(boxes, 2)
    colored = [(pair, style.PAIRS[i % len(style.PAIRS)]) for i, pair in enumerate(pairs)]
    canvas.outline(
        [
            (np.stack([_center(pair.human), pair.point, _center(pair.object_)]), color)
            for pair, color in colored
        ],
        2,
    )
    marks = []
    for pair, color in colored:
        human, object_ = _center(pair.human), _center(pair.object_)
        canvas.disc(human, 3, style.HUMAN, _WHITE)
        canvas.disc(object_, 3, style.OBJECT, _WHITE)
        canvas.target(pair.point, color)
        way = np.linspace(0, 1, 13)[:, None]
        marks += [human + way * (pair.point - human), pair.point + way * (object_ - pair.point)]
    chips = [Chip(pair.lines, pair.point, color) for pair, color in colored]
    if chips:
        many = listed and sum(len(pair.lines) for pair in pairs) >= LISTED
        place = canvas.listing if many else canvas.chips
        place(chips, np.stack([box for box, _ in boxes]), np.concatenate(marks))


def _line(prediction: ImagePrediction, vocabulary: Vocabulary, i: int) -> TextLine:
    name = _name(vocabulary, int(prediction.verbs[i]), int(prediction.object_labels[i]))
    return [(name, _WHITE), (f" {prediction.scores[i]:.2f}", _SCORE)]


def _name(vocabulary: Vocabulary, verb: int, label: int) -> str:
    return f"{vocabulary.verbs[verb]} {vocabulary.objects[label]}".replace("_", " ")


def _center(box: np.ndarray) -> np.ndarray:
    return (box[:2] + box[2:]) / 2


def _middle(human: np.ndarray, object_: np.ndarray) -> np.ndarray:
    return (_center(human) + _center(object_)) / 2


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    common = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
    return common / max((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common, 1e-9)

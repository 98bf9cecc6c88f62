"""What the page says, as plain values for JSON.

    {"title": "runs/demo", "facts": ["split test", ...],
     "headline": [{"name": "mAP", "value": 42.18, "note": "Default, 60 HOIs"}, ...],
     "means": {"columns": [...], "rows": [[...], ...]} or null,
     "kinds": [{"name": "correct", "meaning": "...", "count": 306}, ...], "missed": 452,
     "threshold": 6073995, "verbs": [...], "objects": [...],
     "classes": {"columns": [{"name": "AP", "number": true, "digits": 2}, ...],
                 "rows": [[...], ...],
                 "names": [[verb, object or null], ...], "curves": [[recall, precision], ...]},
     "plots": [...],
     "images": [{"name": "a.jpg", "width": 640, "height": 480, "boxes": [...], "truth": [...],
                 "found": [...], "points": [...]}, ...]}

The lists of an image are flat, since a split has a million triplets:

    boxes   x1, y1, x2, y2, object                              of each distinct box
    truth   human box, object box, verb, 1 if an HOI            of each annotated pair
    found   human box, object box, verb, score, cause, counted, pair, point
            of each triplet, best first; score in SCORE_UNITs, cause an index of kinds or -1 where
            (verb, object) is no HOI; counted: kinds count it; pair: the row of truth that it
            matches, or -1; point: an interaction point, or -1
    points  x, y
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import ImageRecord, hoi_counts, pair_hois
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval.curve import Curve
from ggnet.eval.errors import CAUSES, counted, triplet_causes
from ggnet.eval.hico import HicoResult
from ggnet.eval.predictions import ImagePrediction
from ggnet.eval.report import Report
from ggnet.eval.vcoco import SCENARIOS, VcocoResult
from ggnet.report.gaze import Looks
from ggnet.viz.curves import NOT_LOSSES, read_results
from ggnet.viz.defaults import THRESHOLD

SCORE_UNIT = 1e-8  # below float32's spacing at any score that matters
CURVE_POINTS = 60  # of a class's precision over recall
F1_POINTS = 200


def of_report(
    report: Report,
    title: str,
    looks: Sequence[Looks | None] | None = None,
    results: Path | None = None,
    detection: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The page of an evaluation.

    Args:
        report: with triplets (`report.predictions`).
        looks: for each of `report.records`, where the network looked; None: not known.
        results: a run's results.csv; None, or no such file: no curves of the training.
        detection: "AP" and "AP50" of the boxes from a run's metrics.json: a prediction file does
            not hold what they are made of.

    Raises:
        UserError: results.csv is broken.
    """
    vocabulary, records = report.vocabulary, report.records
    by_id = {prediction.image_id: prediction for prediction in report.predictions}
    chosen = counted(report.predictions, records, vocabulary)
    chosen_by_id = {
        prediction.image_id: rows for prediction, rows in zip(by_id.values(), chosen, strict=True)
    }
    images, right = [], 0
    for number, record in enumerate(records):
        look = looks[number] if looks else None
        prediction = by_id.get(record.image_id)
        image = _truth(record, vocabulary)
        if prediction is not None:
            right += _add_found(
                image, prediction, record, vocabulary, chosen_by_id[record.image_id], look
            )
        images.append(image)
    best = report.f1.best()
    pairs = int(hoi_counts(records, vocabulary).sum())
    counts = report.errors.to_dict()
    facts = [f"split {report.split}", f"{len(records):,} images", f"{pairs:,} annotated pairs"]
    if report.missing_images:
        facts.append(f"{report.missing_images:,} images missing")
    return {
        "title": title,
        "facts": facts,
        "headline": _headline(report, best, detection),
        "means": _means(report.result),
        "kinds": [
            {"name": name, "meaning": meaning, "count": counts[name]}
            for name, meaning in CAUSES.items()
        ],
        "missed": pairs - right,
        "threshold": _units(best["threshold"] if best else THRESHOLD),
        "scoreUnit": SCORE_UNIT,
        "verbs": list(vocabulary.verbs),
        "objects": list(vocabulary.objects),
        "classes": _classes(report),
        "plots": [
            plot
            for plot in (*_training_plots(results), _f1_plot(report, best), _tail_plot(report))
            if plot is not None
        ],
        "images": images,
    }


def of_records(
    records: Sequence[ImageRecord],
    vocabulary: Vocabulary,
    title: str,
    facts: list[str],
    rare: np.ndarray | None,
) -> dict[str, Any]:
    """The page of a dataset's split, without predictions."""
    counts = hoi_counts(records, vocabulary)
    images_of = np.zeros(len(vocabulary.hois), np.int64)
    for record in records:
        hois = np.unique(pair_hois(record, vocabulary))
        images_of[hois[hois >= 0]] += 1
    order = np.argsort(-counts, kind="stable")
    columns = [_column("HOI"), _column("pairs", True), _column("images", True)]
    if rare is not None:
        columns.append(_column("group"))
    rows = [
        [vocabulary.hoi_name(hoi), int(counts[hoi]), int(images_of[hoi])]
        + ([] if rare is None else ["rare" if rare[hoi] else "non-rare"])
        for hoi in order.tolist()
    ]
    boxes = sum(len(record.boxes) for record in records)
    figures = (
        ("images", len(records), ""),
        ("pairs", int(sum(len(record.pairs) for record in records)), ""),
        ("boxes", boxes, ""),
        ("HOIs", int((counts > 0).sum()), f"with pairs, of {len(counts)}"),
    )
    frequency = {
        "title": "Pairs of each HOI, from the most frequent",
        "x": {"name": "HOI"},
        "y": {"name": "pairs", "log": True},
        "lines": [
            {
                "name": "pairs",
                "x": list(range(1, len(order) + 1)),
                "y": [int(counts[hoi]) or None for hoi in order.tolist()],
            }
        ],
    }
    return {
        "title": title,
        "facts": facts,
        "headline": [{"name": n, "value": value, "note": note} for n, value, note in figures],
        "means": None,
        "kinds": [],
        "missed": 0,
        "threshold": 0,
        "scoreUnit": SCORE_UNIT,
        "verbs": list(vocabulary.verbs),
        "objects": list(vocabulary.objects),
        "classes": {
            "columns": columns,
            "rows": rows,
            "names": [list(vocabulary.hois[hoi]) for hoi in order.tolist()],
            "curves": [],
        },
        "plots": [frequency] if counts.any() else [],
        "images": [_truth(record, vocabulary) for record in records],
    }


def _truth(record: ImageRecord, vocabulary: Vocabulary) -> dict[str, Any]:
    """An image with its annotated pairs; `boxes` has a row for each of the record's first."""
    boxes: list[float] = []
    for box, label in zip(_tenths(record.boxes), record.labels.tolist(), strict=True):
        boxes += [*box, label]
    valid = pair_hois(record, vocabulary) >= 0
    truth: list[int] = []
    for (human, object_, verb), is_hoi in zip(record.pairs.tolist(), valid.tolist(), strict=True):
        truth += [human, object_, verb, int(is_hoi)]
    return {"name": record.file_name, "boxes": boxes, "truth": truth}


def _add_found(
    image: dict[str, Any],
    prediction: ImagePrediction,
    record: ImageRecord,
    vocabulary: Vocabulary,
    chosen: np.ndarray,
    look: Looks | None,
) -> int:
    """Give the image its triplets; returns how many are correct."""
    valid = vocabulary.hoi_index(prediction.verbs, prediction.object_labels) >= 0
    causes, pairs = triplet_causes(prediction, record, valid)
    boxes: dict[tuple, int] = {}
    first = len(image["boxes"]) // 5
    people = np.zeros(len(prediction), np.int64)
    human, object_ = (
        [
            first + boxes.setdefault((*box, label), len(boxes))
            for box, label in zip(_tenths(corners), labels.tolist(), strict=True)
        ]
        for corners, labels in (
            (prediction.human_boxes, people),
            (prediction.object_boxes, prediction.object_labels),
        )
    )
    found: list[int] = []
    for row in np.argsort(-prediction.scores, kind="stable").tolist():
        found += [
            human[row],
            object_[row],
            int(prediction.verbs[row]),
            _units(prediction.scores[row]),
            int(causes[row]) if valid[row] else -1,
            int(chosen[row]),
            int(pairs[row]) if valid[row] else -1,
            -1 if look is None else int(look.of_triplet[row]),
        ]
    image["boxes"] += [value for box in boxes for value in box]
    image["found"] = found
    if look is not None:
        image["points"] = [value for point in _tenths(look.points) for value in point]
    return int((valid & (causes == list(CAUSES).index("correct"))).sum())


def _headline(
    report: Report, best: dict[str, float] | None, detection: dict[str, float] | None
) -> list[dict[str, Any]]:
    result = report.result
    if isinstance(result, HicoResult):
        classes = int((result.ground_truth > 0).sum())
        figures = [("mAP", result.mean_ap(), f"Default, {classes} HOIs, {result.protocol}")]
        figures.append(("mAP, Known-Object", result.mean_ap("known-object"), ""))
    else:
        figures = [
            (f"role AP, {scenario}", result.mean_role_ap(scenario), "24 roles")
            for scenario in SCENARIOS
        ]
    if best is not None:
        note = f"at a score of {best['threshold']:.3g}"
        note += f": precision {best['precision']:.2f}, recall {best['recall']:.2f}"
        figures.append(("best F1", 100 * best["f1"], note))
    if detection is None and report.detection is not None:
        detection = {"AP": report.detection.ap, "AP50": report.detection.ap50}
    if detection is not None:
        figures.append(("boxes' AP50", detection["AP50"], f"COCO AP {_shown(detection['AP'])}"))
    return [
        {"name": name, "value": _shown(value), "note": note}
        for name, value, note in figures
        if value is not None
    ]


def _means(result: HicoResult | VcocoResult) -> dict[str, Any]:
    if isinstance(result, HicoResult):
        groups = {
            f"{group} ({int((mask & (result.ground_truth > 0)).sum())})": group
            for group, mask in result.groups.items()
        }
        names = {"default": "Default", "known-object": "Known-Object"}
        return {
            "columns": ["mAP, %", *groups],
            "rows": [
                [names[setting], *(_shown(means[group]) for group in groups.values())]
                for setting, means in result.summary().items()
            ],
        }
    rows = [
        [f"role AP, {scenario}", *(_shown(result.mean_role_ap(scenario, n)) for n in (24, 25))]
        for scenario in SCENARIOS
    ]
    rows.append(["agent AP, 26 actions", _shown(result.mean_agent_ap()), ""])
    return {"columns": ["AP, %", "24 roles", "25 roles"], "rows": rows}


def _classes(report: Report) -> dict[str, Any]:
    """The table of HOIs, or of V-COCO's roles, best first, with their curves."""
    result, vocabulary = report.result, report.vocabulary
    if isinstance(result, HicoResult):
        columns = [_column("HOI"), *map(_percent, ("AP", "Known-Object", "recall"))]
        columns += [_column("pairs", True), _column("predicted", True)]
        if report.train_counts is not None:
            columns.append(_column("training", True))
        grouped = [name for name in ("rare", "unseen") if name in result.groups]
        if grouped:
            columns.append(_column("group"))
        rows, names, curves = [], [], []
        for hoi in np.argsort(-np.nan_to_num(result.ap["default"], nan=-1.0), kind="stable"):
            row = [
                vocabulary.hoi_name(hoi),
                _shown(result.ap["default"][hoi]),
                _shown(result.ap["known-object"][hoi]),
                _shown(result.recall[hoi]),
                int(result.ground_truth[hoi]),
                int(result.predicted[hoi]),
            ]
            if report.train_counts is not None:
                row.append(int(report.train_counts[hoi]))
            if grouped:
                row.append(_group(result, hoi))
            rows.append(row)
            names.append(list(vocabulary.hois[hoi]))
            curves.append(_thin_curve(*result.curves[hoi]))
        return {"columns": columns, "rows": rows, "names": names, "curves": curves}
    first, second = (result.role_ap[scenario] for scenario in SCENARIOS)
    order = sorted(first, key=lambda name: -np.nan_to_num(first[name], nan=-1.0))
    known: dict[str, Curve] = result.named_curves()
    return {
        "columns": [
            _column("action and role"),
            *map(_percent, SCENARIOS),
            _column("persons", True),
        ],
        "rows": [
            [
                name.replace("_", " "),
                _shown(first[name]),
                _shown(second[name]),
                result.positives[name.rsplit("_", 1)[0]],
            ]
            for name in order
        ],
        "names": [
            [vocabulary.verbs.index(name) if name in vocabulary.verbs else None, None]
            for name in order
        ],
        "curves": [_thin_curve(known[name].precision, known[name].recall) for name in order],
    }


def _group(result: HicoResult, hoi: int) -> str:
    names = [name for name in ("rare", "non-rare", "unseen") if name in result.groups]
    return ", ".join(name for name in names if result.groups[name][hoi])


def _training_plots(results: Path | None) -> list[dict[str, Any]]:
    """Losses and AP over the epochs of a run."""
    if results is None or not results.is_file():
        return []
    columns = {
        name: [_significant(value) if math.isfinite(value) else None for value in values.tolist()]
        for name, values in read_results(results).items()
    }
    epochs = columns["epoch"]
    means = {name: y for name, y in columns.items() if name.startswith("mAP")}
    losses = {n: y for n, y in columns.items() if n not in NOT_LOSSES and n not in means}
    plots = []
    if losses:
        plots.append(_over_epochs("Training losses", "mean of the epoch", epochs, losses, log=True))
    if means:
        plots.append(_over_epochs("Average precision", "mAP, %", epochs, means))
    return plots


def _over_epochs(
    title: str, y_name: str, epochs: list, columns: dict[str, list], log: bool = False
) -> dict[str, Any]:
    lines = [
        {
            "name": name.replace("_", " "),
            "x": epochs,
            "y": y,
            "dots": len(epochs) < 30,
            "main": name in ("total", "mAP"),
        }
        for name, y in columns.items()
    ]
    first = next(epoch for epoch in epochs if epoch is not None)
    x, y = {"name": "epoch", "from": first}, {"name": y_name, "log": log}
    return {"title": title, "x": x, "y": y, "lines": lines}


def _f1_plot(report: Report, best: dict[str, float] | None) -> dict[str, Any] | None:
    curve = report.f1
    if best is None:
        return None
    count = len(curve.scores)  # falling; few of them are high
    chosen = np.unique(np.geomspace(1, count, F1_POINTS).astype(int)) - 1
    x = [_significant(value) for value in curve.scores[chosen].tolist()]
    values = {"F1": curve.f1, "precision": curve.precision, "recall": curve.recall}
    return {
        "title": f"F1 is best at a score of {best['threshold']:.3g}",
        "x": {"name": "lowest score", "log": True, "from": max(x[-1], 1e-4)},
        "y": {"name": "", "from": 0, "to": 1},
        "mark": _significant(best["threshold"]),
        "lines": [
            {
                "name": name,
                "x": x,
                "y": [round(v, 4) for v in y[chosen].tolist()],
                "main": name == "F1",
            }
            for name, y in values.items()
        ],
    }


def _tail_plot(report: Report) -> dict[str, Any] | None:
    """AP of each HOI against its training instances."""
    result, counts = report.result, report.train_counts
    if not isinstance(result, HicoResult) or counts is None:
        return None
    there = np.flatnonzero(~np.isnan(result.ap["default"]) & (counts > 0))
    rare = result.groups.get("rare", np.zeros(len(counts), bool))
    lines = []
    for name, hois in (("non-rare", there[~rare[there]]), ("rare", there[rare[there]])):
        if len(hois):
            lines.append(
                {
                    "name": name if rare.any() else "HOIs",
                    "x": counts[hois].tolist(),
                    "y": [_shown(value) for value in result.ap["default"][hois]],
                    "labels": [report.vocabulary.hoi_name(hoi) for hoi in hois],
                    "scatter": True,
                }
            )
    if not lines:
        return None
    return {
        "title": "AP of each HOI, %",
        "x": {"name": "training pairs", "log": True},
        "y": {"name": "", "from": 0, "to": 100},
        "lines": lines,
    }


def _thin_curve(precision: np.ndarray, recall: np.ndarray) -> list[list[float]]:
    """Recall and the precision envelope, where recall grows."""
    if not len(recall):
        return [[], []]
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    grows = np.flatnonzero(np.diff(recall, prepend=0.0) > 0)
    if len(grows) > CURVE_POINTS:
        grows = grows[np.linspace(0, len(grows) - 1, CURVE_POINTS).astype(int)]
    return [[round(v, 4) for v in values[grows].tolist()] for values in (recall, envelope)]


def _column(name: str, number: bool = False, digits: int = 0) -> dict[str, Any]:
    return {"name": name, "number": number, "digits": digits}


def _percent(name: str) -> dict[str, Any]:
    return _column(name, True, 2)


def _tenths(points: np.ndarray) -> list[list[float]]:
    """Coordinates to a tenth of a pixel, whole ones without their point."""
    rows = np.round(points.astype(np.float64), 1).tolist()
    return [[int(v) if v == int(v) else v for v in row] for row in rows]


def _units(score: float) -> int:
    return round(float(score) / SCORE_UNIT)


def _shown(value: float) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 2)


def _significant(value: float) -> float:
    return float(f"{value:.4g}")

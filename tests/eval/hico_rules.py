"""The rules of HICO's evaluators, written from their descriptions: slow, and nothing shared.

A class is a verb here: the objects of the records and predictions given are all its own.
"""

from collections import defaultdict

import numpy as np


def inclusive(box):
    """The evaluators' pixels, counted from 0."""
    return [float(box[0]), float(box[1]), float(box[2]) - 1, float(box[3]) - 1]


def rows_of(predictions, hoi):
    """(image, human, thing, score) of a class in file order."""
    return [
        (p.image_id, inclusive(human), inclusive(thing), float(score))
        for p in predictions
        for human, thing, verb, score in zip(
            p.human_boxes, p.object_boxes, p.verbs, p.scores, strict=True
        )
        if verb == hoi
    ]


def pairs_of(records, hoi):
    """Image -> [(human, thing)] of a class in file order."""
    return {
        r.image_id: [
            (inclusive(r.boxes[h]), inclusive(r.boxes[o])) for h, o, verb in r.pairs if verb == hoi
        ]
        for r in records
    }


def eleven_points(correct, positives):
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(hits) + 1)
    points = [
        max((p for p, h in zip(precision, hits, strict=True) if h * 10 >= t * positives), default=0)
        for t in range(11)
    ]
    return 100 * sum(points) / 11 if positives else float("nan")


def official(predictions, records, hoi):
    """The official evaluator's own steps (and PPDM's): 1 added to widths, the first of the best
    pairs. Equal scores in our order."""

    def overlap(a, b):
        wide = min(a[2], b[2]) - max(a[0], b[0]) + 1
        high = min(a[3], b[3]) - max(a[1], b[1]) + 1
        if wide <= 0 or high <= 0:
            return 0.0
        both = sum((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
        return wide * high / (both - wide * high)

    truth = pairs_of(records, hoi)
    free = {image: [True] * len(pairs) for image, pairs in truth.items()}
    correct = []
    by_score = sorted(rows_of(predictions, hoi), key=lambda row: (-row[3], *row[:3]))
    for image, human, thing, _ in by_score:
        best, pair = -1.0, None
        for number, (true_human, true_thing) in enumerate(truth[image]):
            both = min(overlap(human, true_human), overlap(thing, true_thing))
            if both > best:
                best, pair = both, number
        correct.append(best >= 0.5 and free[image][pair])
        if correct[-1]:
            free[image][pair] = False
    return eleven_points(correct, sum(len(pairs) for pairs in truth.values()))


def no_frills(predictions, records, hoi):
    """The steps of hico_eval_de_ko.py: an image at a time, by score, the first pair that is left;
    then all by score."""

    def area(x1, y1, x2, y2):
        return 0.0 if x2 <= x1 or y2 <= y1 else (x2 - x1 + 1) * (y2 - y1 + 1)

    def overlap(a, b):
        both = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
        return both / (area(*a) + area(*b) - both + 1e-6)

    results, truth = [], pairs_of(records, hoi)
    found = defaultdict(list)
    for row in rows_of(predictions, hoi):
        found[row[0]].append(row)
    for image, pairs in truth.items():
        left = list(pairs)
        for _, human, thing, score in sorted(found[image], key=lambda row: row[3], reverse=True):
            fits = (
                n for n, p in enumerate(left) if overlap(human, p[0]) > 0.5 < overlap(thing, p[1])
            )
            first = next(fits, None)
            results.append((first is not None, score))
            if first is not None:
                del left[first]
    if not results:
        return 0.0
    by_score = sorted(results, key=lambda row: row[1], reverse=True)
    return eleven_points([row[0] for row in by_score], sum(len(pairs) for pairs in truth.values()))

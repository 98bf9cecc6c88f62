"""Time and memory of the metrics at the size of HICO-DET's and V-COCO's test sets.

    python bench/eval.py [--limit SECONDS]

Ground truth and predictions are generated: 9,658 images with 3.5 pairs and 100 triplets each for
HICO, half of the triplets near a pair; 4,946 images for V-COCO. Fails if a metric takes longer than
the limit.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ggnet.data.annotations import ImageRecord
from ggnet.data.tables import hico_rare, hico_vocabulary, vcoco_vocabulary
from ggnet.data.vocabulary import Vocabulary
from ggnet.eval import hico, vcoco
from ggnet.eval.detection import evaluate_detection
from ggnet.eval.errors import error_breakdown
from ggnet.eval.predictions import (
    ImageDetections,
    ImagePrediction,
    read_predictions,
    write_predictions,
)

HICO_IMAGES, VCOCO_IMAGES, TRIPLETS, PAIRS = 9658, 4946, 100, 3.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=float, default=30.0, help="seconds a metric may take")
    limit = parser.parse_args().limit
    rng = np.random.default_rng(0)
    timings: dict[str, float] = {}

    vocabulary = hico_vocabulary()
    records, predictions = generate(HICO_IMAGES, vocabulary, rng)
    for protocol in hico.PROTOCOLS:
        with timed(timings, f"HICO, {protocol}"):
            result = hico.evaluate(
                predictions, records, vocabulary, rare=hico_rare(), protocol=protocol
            )
    with timed(timings, "causes of errors"):
        error_breakdown(predictions, records, vocabulary)
    boxes = [detections(prediction) for prediction in predictions]
    with timed(timings, "COCO AP of 200 detected boxes an image"):
        evaluate_detection(boxes, records, vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.json"
        with timed(timings, "write the predictions (not a metric)"):
            write_predictions(path, predictions, vocabulary)
        with timed(timings, "read the predictions (not a metric)"):
            again = read_predictions(path, vocabulary)
    assert (
        hico.evaluate(again, records, vocabulary, protocol=protocol).mean_ap() == result.mean_ap()
    )

    vocabulary = vcoco_vocabulary()
    records, predictions = generate(VCOCO_IMAGES, vocabulary, rng)
    truth = {record.image_id: persons(record, vocabulary) for record in records}
    with timed(timings, "V-COCO, role AP in both scenarios and agent AP"):
        vcoco.evaluate(vcoco.role_predictions(predictions, vocabulary), truth)

    table = Table(title=f"{HICO_IMAGES:,} and {VCOCO_IMAGES:,} images, {TRIPLETS} triplets each")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    for name, seconds in timings.items():
        table.add_row(name, f"{seconds:.1f}")
    console = Console()
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"peak memory of the process: {peak:.1f} GiB; limit of a metric: {limit:g} s")
    slow = [name for name, s in timings.items() if s > limit and "not a metric" not in name]
    if slow:
        console.print(f"over the limit: {', '.join(slow)}")
    return 1 if slow else 0


class timed:  # noqa: N801, reads as a statement
    """Add the seconds of a block to `timings`."""

    def __init__(self, timings: dict[str, float], name: str):
        self.timings, self.name = timings, name

    def __enter__(self):
        self.start = time.perf_counter()

    def __exit__(self, *_):
        self.timings[self.name] = time.perf_counter() - self.start


def generate(
    images: int, vocabulary: Vocabulary, rng: np.random.Generator
) -> tuple[list[ImageRecord], list[ImagePrediction]]:
    """Images whose HOIs follow a long tail, and noisy predictions of them."""
    hois = np.array(vocabulary.hois)
    frequency = 1 / np.arange(1, len(hois) + 1)
    frequency /= frequency.sum()
    records, predictions = [], []
    for number in range(images):
        count = min(int(rng.geometric(1 / PAIRS)), 60)
        corners = rng.random((2, count, 2)) * 400
        boxes = np.concatenate([corners, corners + 20 + rng.random((2, count, 2)) * 200], axis=2)
        verbs, labels = hois[rng.choice(len(hois), count, p=frequency)].T
        index = np.arange(count)
        records.append(
            ImageRecord(
                f"{number}.jpg",
                str(number),
                Path(f"{number}.jpg"),
                boxes.reshape(-1, 4).astype(np.float32),
                np.concatenate([np.zeros(count, np.int64), labels]),
                np.column_stack([index, count + index, verbs]),
            )
        )
        chosen = rng.integers(0, count, TRIPLETS)
        near = boxes[:, chosen] + rng.normal(0, 12, (2, TRIPLETS, 4))
        right = rng.random(TRIPLETS) < 0.5
        other_verbs, other_labels = hois[rng.choice(len(hois), TRIPLETS, p=frequency)].T
        predictions.append(
            ImagePrediction(
                str(number),
                f"{number}.jpg",
                near[0].astype(np.float32),
                near[1].astype(np.float32),
                np.where(right, labels[chosen], other_labels),
                np.where(right, verbs[chosen], other_verbs),
                rng.random(TRIPLETS, dtype=np.float32),
            )
        )
    return records, predictions


def detections(prediction: ImagePrediction) -> ImageDetections:
    """The boxes of the triplets, each as its own."""
    return ImageDetections(
        prediction.image_id,
        np.concatenate([prediction.human_boxes, prediction.object_boxes]),
        np.concatenate([np.zeros_like(prediction.object_labels), prediction.object_labels]),
        np.tile(prediction.scores, 2),
    )


def persons(record: ImageRecord, vocabulary: Vocabulary) -> list[vcoco.Person]:
    """One person for each pair of a record."""
    result = []
    for human, object_, verb in record.pairs:
        action, _, role = vocabulary.verbs[verb].rpartition("_")
        boxes = record.boxes.astype(np.float64)
        result.append(vcoco.Person(boxes[human], True, {action: {role: boxes[object_]}}))
    return result


if __name__ == "__main__":
    sys.exit(main())

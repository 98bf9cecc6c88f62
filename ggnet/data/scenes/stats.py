"""How the pairs of a dataset lie: the numbers that make HOI detection hard."""

from pathlib import Path

import numpy as np

from ggnet.data.annotations import ImageRecord, hoi_counts, load_dataset
from ggnet.data.vocabulary import Vocabulary

CROSSING_DISTANCE = 8.0  # pixels: two cells at stride 4


def statistics(root: str | Path) -> dict[str, dict[str, float]]:
    """For each split of the dataset in `root`: name -> number, to print in this order.

    A pair is two boxes with one or more verbs; distances and sizes are in pixels of the original
    images, [5 %, 95 %] of what occurs. Works for every dataset folder.

    Raises:
        UserError: `root` is not a dataset.
    """
    dataset = load_dataset(root)
    return {split: _describe(dataset.load(split), dataset.vocabulary) for split in dataset.splits}


def _describe(records: list[ImageRecord], vocabulary: Vocabulary) -> dict[str, float]:
    pairs, instances, hard_negatives = 0, 0, 0
    shared_object, shared_person, crossing = 0, 0, 0
    off_object, off_person = 0, 0
    distances, heights, sides = [], [], []
    for record in records:
        boxes = record.boxes
        links, inverse = np.unique(record.pairs[:, :2], axis=0, return_inverse=True)
        verbs = np.bincount(inverse.reshape(-1), minlength=len(links))
        valid = vocabulary.valid_pairs.sum(0)[record.labels[links[:, 1]]]
        pairs += len(links)
        instances += len(record.pairs)
        hard_negatives += (valid - verbs).sum()
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        people, things = links.T
        middles = (centers[people] + centers[things]) / 2
        shared_object += (np.bincount(things, minlength=len(boxes))[things] > 1).sum()
        shared_person += (np.bincount(people, minlength=len(boxes))[people] > 1).sum()
        apart = np.linalg.norm(middles[:, None] - middles, axis=2)
        crossing += ((apart <= CROSSING_DISTANCE).sum(1) > 1).sum()
        off_object += (~_inside(middles, boxes[things])).sum()
        off_person += (~_inside(middles, boxes[people])).sum()
        distances += np.linalg.norm(centers[people] - centers[things], axis=1).tolist()
        size = boxes[:, 2:] - boxes[:, :2]
        heights += size[record.labels == 0, 1].tolist()
        sides += size[record.labels > 0].max(1).tolist()
    counts = np.sort(hoi_counts(records, vocabulary))[::-1]
    share = 100 / max(pairs, 1)
    numbers = {
        "images": len(records),
        "pairs": pairs,
        "pairs an image": pairs / len(records),
        "verbs a pair": instances / max(pairs, 1),
        "hard negatives a pair": hard_negatives / max(pairs, 1),
        "% of pairs that share their object": shared_object * share,
        "% of pairs that share their person": shared_person * share,
        "% of pairs that cross (midpoints within 8 pixels)": crossing * share,
        "% of midpoints outside the object": off_object * share,
        "% of midpoints outside the person": off_person * share,
        "instances of the rarest HOI": counts[-1],
        "instances of the median HOI": np.median(counts),
        "instances of the most frequent HOI": counts[0],
        "HOIs with fewer than 10 instances": (counts < 10).sum(),
        "% of instances in the top tenth of HOIs": (
            100 * counts[: round(len(counts) / 10)].sum() / max(counts.sum(), 1)
        ),
    }
    for name, values in (
        ("distance of person and object", distances),
        ("height of a person", heights),
        ("longer side of an object", sides),
    ):
        if values:
            low, high = np.percentile(values, (5, 95))
            numbers |= {f"{name}, 5th percentile": low, f"{name}, 95th percentile": high}
    return {name: float(number) for name, number in numbers.items()}


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return ((points >= boxes[:, :2]) & (points <= boxes[:, 2:])).all(1)

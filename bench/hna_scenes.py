"""The bundled scenes, changed in one respect, for the study of HNA (docs/paper.md).

    python -m bench.hna_scenes labels       three tenths of the training split's labels are missing
    python -m bench.hna_scenes confusers    each object is possible with each verb
    python -m bench.hna_scenes apart        no two pairs of a picture have one interaction point

Each makes data/scenes-NAME with 2,000 training and 1,500 test images, for `ggnet ablate hna --root
data/scenes-NAME --out runs/ablate-NAME`. Labels go missing at random, each for itself. Verbs made
possible never occur, so they are hard negatives and nothing else. In `apart` pictures whose pairs'
midpoints lie within 8 pixels are replaced by others.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console

from ggnet.data.scenes import generate
from ggnet.data.scenes.stats import CROSSING_DISTANCE
from ggnet.progress import progress

COUNTS = {"train": 2000, "test": 1500}
MISSING = 0.3
SPARE = 2.0  # pictures made for each that is kept, where some are left out


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hna_scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=CHANGES)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the folder goes")
    options = parser.parse_args()
    root = options.data / f"scenes-{options.name}"
    if root.exists():
        parser.error(f"{root} exists; remove it, or use it")
    made = {split: round(count * SPARE) for split, count in COUNTS.items()}
    options.data.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{root.name}-", dir=options.data) as folder:
        draft = Path(folder) / root.name
        with progress("generating scenes", Console()) as told:
            generate(draft, **(made if options.name == "apart" else COUNTS), progress=told)
        CHANGES[options.name](draft)
        change(draft / "dataset.json", lambda described: described | {"name": root.name})
        draft.rename(root)
    print(root)
    return 0


def change(path: Path, function: Callable) -> None:
    """Replace what a JSON file holds by what `function` makes of it."""
    path.write_text(json.dumps(function(json.loads(path.read_text(encoding="utf-8")))))


def lose_labels(root: Path) -> None:
    """Remove verb labels of the training split at random."""
    rng = np.random.default_rng(0)

    def lose(entries: list[dict]) -> list[dict]:
        for entry in entries:
            labels = entry["hoi_annotation"]
            kept = rng.random(len(labels)) >= MISSING
            entry["hoi_annotation"] = [x for x, keep in zip(labels, kept, strict=True) if keep]
        return entries

    change(root / "train.json", lose)


def add_confusers(root: Path) -> None:
    """Append every verb and object that are no HOI yet to the list of HOIs."""

    def add(described: dict) -> dict:
        hois = [tuple(pair) for pair in described["hois"]]
        things = [item["id"] for item in described["objects"] if item["name"] != "person"]
        more = [(verb["id"], thing) for thing in things for verb in described["verbs"]]
        return described | {"hois": hois + [pair for pair in more if pair not in hois]}

    change(root / "dataset.json", add)


def keep_apart(root: Path) -> None:
    """Keep the first pictures in which no two pairs cross."""
    for split, count in COUNTS.items():
        path = root / f"{split}.json"
        entries = json.loads(path.read_text(encoding="utf-8"))
        kept = [entry for entry in entries if not crosses(entry)][:count]
        if len(kept) < count:
            raise SystemExit(f"{split}: {len(kept)} pictures without crossings, expected {count}")
        path.write_text(json.dumps(kept))
        names = {entry["file_name"] for entry in kept}
        for image in (root / "images" / split).iterdir():
            if image.name not in names:
                image.unlink()


def crosses(entry: dict) -> bool:
    """Whether the midpoints of two pairs of a picture lie within CROSSING_DISTANCE."""
    boxes = np.array([item["bbox"] for item in entry["annotations"]], float).reshape(-1, 4)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    pairs = {(item["subject_id"], item["object_id"]) for item in entry["hoi_annotation"]}
    middles = np.array([(centers[a] + centers[b]) / 2 for a, b in sorted(pairs)])
    apart = np.linalg.norm(middles[:, None] - middles, axis=2)
    return bool(((apart <= CROSSING_DISTANCE).sum(1) > 1).any())


CHANGES = {"labels": lose_labels, "confusers": add_confusers, "apart": keep_apart}


if __name__ == "__main__":
    raise SystemExit(main())

"""`ggnet ablate` as a user types it, and a file for it."""

import json

from ggnet.cli import main
from ggnet.config import load_config
from ggnet.data.unseen import open_dataset


def ablate(table, out, *more):
    """The exit status of `ggnet ablate TABLE --out OUT ...`."""
    return main(["ablate", table, "--out", str(out), *map(str, more)])


def boxes_of_the_test_images(root, path, *, moved=0.0):
    """The annotated boxes as another detector's."""
    dataset = open_dataset(load_config("demo", [f"data.root={root}"]).data)
    ids, entries = dataset.vocabulary.object_ids, []
    for record in dataset.load("test"):
        for (x0, y0, x1, y1), label in zip(record.boxes, record.labels, strict=True):
            box = [float(x0 + moved), float(y0), float(x1 - x0), float(y1 - y0)]
            entry = {"image_id": record.image_id, "category_id": ids[label], "bbox": box}
            entries.append(entry | {"score": 0.9})
    path.write_text(json.dumps(entries))
    return path

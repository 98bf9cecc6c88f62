"""Label Studio's JSON export: rectangles with labels, and relations with labels between them.

Rectangles are in percent of the image, turned about their upper left corner
(https://labelstud.io/guide/task_format).
"""

from pathlib import Path
from typing import Any

from ggnet.data.annotations import read_json
from ggnet.data.formats.entry import Entry
from ggnet.data.formats.named import Relations, envelope, file_name
from ggnet.data.problems import Problems
from ggnet.errors import UserError

SIDES = {"x", "y", "width", "height"}


def read_file(path: Path, images: Path, person: str, problems: Problems) -> list[Entry]:
    """The annotated tasks; of several annotations the one marked as ground truth, else the first.

    Raises:
        UserError: the file is not of that form.
    """
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise UserError(f"{path} holds a {type(tasks).__name__}; expected Label Studio's list")
    entries = []
    for number, task in enumerate(tasks):
        try:
            entry = _entry(task, path, images, person, problems)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            minimal = isinstance(task, dict) and "annotations" not in task
            hint = " (is it JSON-MIN, which has no relations? Export as JSON)" if minimal else ""
            raise UserError(
                f"{path}, task {number}: {type(error).__name__}: {error}{hint}; expected "
                "Label Studio's JSON export: data {image} and annotations [{result}] with "
                "rectangles and relations"
            ) from None
        if entry is not None:
            entries.append(entry)
    return entries


def _entry(
    task: dict[str, Any], path: Path, images: Path, person: str, problems: Problems
) -> Entry | None:
    name = file_name(_image(task["data"]), images)
    done = [row for row in task["annotations"] if not row.get("was_cancelled")]
    if not done:
        problems.add("image not annotated", path, name, "no annotation")
        return None
    if len(done) > 1:
        done.sort(key=lambda row: not row.get("ground_truth"))  # stable
        problems.add("several annotations", path, name, f"{len(done)} annotations")
    results = done[0]["result"]
    if any(row.get("image_rotation") for row in results):
        problems.add("rotated image", path, name, "image_rotation is not 0")
        return None
    entry = Entry(name, name)
    boxes: dict[str, int | None] = {}  # region -> index of its box
    for row in results:
        value = row.get("value", {})
        labels = value.get("rectanglelabels") or value.get("labels")
        if labels and value.keys() >= SIDES:
            boxes[row["id"]] = entry.box(_corners(row, value), str(labels[0]).strip())
        elif "id" in row:
            boxes.setdefault(row["id"], None)
    relations = Relations(entry, person, problems, path)
    for region, index in boxes.items():
        if index is None:
            relations.note("not a labelled rectangle", f"region {region}", "another kind of region")
    for row in results:
        if row["type"] != "relation":
            continue
        where = f"relation {row['from_id']} to {row['to_id']}"
        ends = [boxes.get(row[key]) for key in ("from_id", "to_id")]
        if None in ends:
            relations.note("relation of no box", where, "one of them is no labelled rectangle")
            continue
        if row.get("direction") == "left":
            ends.reverse()
        relations.add(*ends, row.get("labels") or (), where)
        if row.get("direction") == "bi" and {relations.labels[end] for end in ends} == {person}:
            relations.add(*ends[::-1], row.get("labels") or (), where)
    return entry


def _image(data: dict[str, Any]) -> str:
    """The task's image, by whatever key the labeling configuration gives it."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    for key in ("image", "img", "photo", *texts):
        if key in texts:
            return texts[key]
    raise KeyError("image")


def _corners(row: dict[str, Any], value: dict[str, Any]) -> list[float]:
    """Edges in pixels."""
    width, height = row["original_width"] / 100, row["original_height"] / 100
    x1, y1 = value["x"] * width, value["y"] * height
    box = [x1, y1, x1 + value["width"] * width, y1 + value["height"] * height]
    return envelope(box, value.get("rotation", 0), (x1, y1))

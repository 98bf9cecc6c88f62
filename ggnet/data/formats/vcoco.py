"""V-COCO's annotation files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ggnet.data.annotations import read_json
from ggnet.data.formats.entry import Entry, at
from ggnet.data.problems import Problems
from ggnet.data.tables import vcoco_actions
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError

PERSON = 1  # COCO id


def read_json_file(path: Path, vocabulary: Vocabulary) -> list[Entry]:
    """`instances_vcoco_*.json` of fredzzhang/vcoco: the pairs that have an object box.

    Raises:
        UserError: the file is not of that form.
    """
    values = read_json(path)
    try:
        object_ids = dict(zip(vocabulary.objects, vocabulary.object_ids, strict=True))
        objects = [object_ids.get(name) for name in values["objects"]]  # 0 is the background
        verb_ids = dict(zip(vocabulary.verbs, vocabulary.verb_ids, strict=True))
        verbs = [verb_ids[name.replace(" ", "_")] for name in values["classes"]]
        rows = list(values["annotations"])
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not fredzzhang's V-COCO JSON ({type(error).__name__}: {error}); expected "
            "annotations, classes and objects"
        ) from None
    entries = []
    for number, row in enumerate(rows):
        try:
            name = row["file_name"]
            entry = Entry(name, _image_id(name))
            columns = (row[key] for key in ("boxes_h", "boxes_o", "objects", "actions"))
            for human, object_, object_index, verb_index in zip(*columns, strict=True):
                object_id = at(objects, object_index)
                if object_id is None:
                    raise ValueError(f"object {object_index} is the background")
                entry.pair(
                    entry.box(human, PERSON), entry.box(object_, object_id), at(verbs, verb_index)
                )
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, image {number}: {type(error).__name__}: {error}; expected file_name and "
                "equally long lists boxes_h, boxes_o, objects and actions"
            ) from None
        entries.append(entry)
    return entries


def read_official_file(
    path: Path, coco: Sequence[str | Path], vocabulary: Vocabulary, problems: Problems
) -> tuple[list[Entry], list[dict[str, Any]]]:
    """The official `vcoco_*.json`, with boxes from COCO's instances.

    Boxes are clipped and filtered as the official evaluator does; its inclusive [x, x + w - 1]
    becomes the edges [x, x + w].

    Returns:
        The entries, with every object that COCO annotates, and for the metric each image's persons:
        {image_id, persons: [{box, labelled, actions: {action: {role: box or None}}}]}.

    Raises:
        UserError: a file is not of that form, or no instances file covers an image.
    """
    actions = _read_actions(path)
    if not coco:
        raise UserError("V-COCO's official files have no boxes: give COCO's instances files too")
    wanted = {int(image) for image in actions[0]["image_id"]}
    images, annotations = _read_coco([Path(file) for file in coco], wanted)
    if missing := sorted(wanted - set(images)):
        raise UserError(
            f"{len(missing)} images of {path}, the first with id {missing[0]}, are not in "
            f"{', '.join(str(file) for file in coco)}; V-COCO needs the instances of the COCO 2014 "
            "split that its images are from"
        )
    labels = _labels(actions)
    entries, persons = [], []
    for image_id in sorted(wanted):
        entry = Entry(images[image_id]["file_name"], str(image_id))
        boxes = {
            row["id"]: box
            for row in annotations.get(image_id, [])
            if (box := _clean_box(row, images[image_id])) is not None
        }
        rows = [row for row in annotations.get(image_id, []) if row["id"] in boxes]
        index = {
            row["id"]: entry.box(boxes[row["id"]], row["category_id"])
            for row in rows
            if not row.get("iscrowd")
        }
        people = []
        for row in rows:
            if row["category_id"] != PERSON:
                continue
            done: dict[str, dict[str, list[float] | None]] = {}
            for action, roles in labels.get(row["id"], {}).items():
                done[action] = {}
                for role, target in roles.items():
                    if target and target not in boxes:
                        where = f"image {image_id}, person {row['id']}"
                        problems.add("role without a box", path, where, f"{action} {role} {target}")
                    done[action][role] = boxes.get(target)
                    if target in index and row["id"] in index:
                        verb = vocabulary.verbs.index(f"{action}_{role}")
                        entry.pair(index[row["id"]], index[target], vocabulary.verb_ids[verb])
            people.append(
                {"box": boxes[row["id"]], "labelled": row["id"] in labels, "actions": done}
            )
        entries.append(entry)
        persons.append({"image_id": str(image_id), "persons": people})
    return entries, persons


def _read_actions(path: Path) -> list[dict]:
    """The file's 26 actions, checked against the table."""
    actions = read_json(path)
    expected = [(action.name, ["agent", *action.roles]) for action in vcoco_actions()]
    try:
        found = [(row["action_name"], row["role_name"]) for row in actions]
        lengths = {len(row[key]) for row in actions for key in ("image_id", "ann_id", "label")}
        roles_fit = all(
            len(row["role_object_id"]) == len(row["role_name"]) * len(row["ann_id"])
            for row in actions
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not V-COCO's official JSON ({type(error).__name__}: {error}); expected a "
            "list of actions with image_id, ann_id, role_object_id, label, action_name, role_name"
        ) from None
    if found != expected or len(lengths) != 1 or not roles_fit:
        raise UserError(
            f"{path} does not hold V-COCO's 26 actions with equally many persons in each; download "
            "it again"
        )
    return actions


def _labels(actions: list[dict]) -> dict[int, dict[str, dict[str, int]]]:
    """Person's annotation id -> action -> role -> object's annotation id, 0 where there is none."""
    labels: dict[int, dict[str, dict[str, int]]] = {}
    for row in actions:
        count = len(row["ann_id"])
        for position, (person, label) in enumerate(zip(row["ann_id"], row["label"], strict=True)):
            mine = labels.setdefault(int(person), {})
            if label == 1:
                mine[row["action_name"]] = {
                    role: int(row["role_object_id"][number * count + position])
                    for number, role in enumerate(row["role_name"])
                    if number  # the first is the agent
                }
    return labels


def _read_coco(paths: list[Path], wanted: set[int]) -> tuple[dict[int, dict], dict[int, list]]:
    """COCO's image rows and annotation rows of the wanted images."""
    images: dict[int, dict] = {}
    annotations: dict[int, list] = {}
    for path in paths:
        values = read_json(path)
        try:
            images |= {row["id"]: row for row in values["images"] if row["id"] in wanted}
            for row in values["annotations"]:
                if row["image_id"] in wanted:
                    annotations.setdefault(row["image_id"], []).append(row)
        except (KeyError, TypeError):
            raise UserError(f"{path} is not a COCO instances file (images, annotations)") from None
    return images, annotations


def _clean_box(row: dict, image: dict) -> list[float] | None:
    """Edges inside the image, or None for boxes that the official evaluator drops."""
    x, y, width, height = row["bbox"]
    right, bottom = image["width"] - 1, image["height"] - 1
    x1, x2 = (min(right, max(0.0, v)) for v in (x, x + max(0.0, width - 1)))
    y1, y2 = (min(bottom, max(0.0, v)) for v in (y, y + max(0.0, height - 1)))
    if row.get("ignore") == 1 or row["area"] <= 0 or x2 <= x1 or y2 <= y1:
        return None
    return [x1, y1, x2 + 1, y2 + 1]


def _image_id(file_name: str) -> str:
    """COCO_train2014_000000000165.jpg -> "165"."""
    return str(int(Path(file_name).stem.rsplit("_", 1)[-1]))

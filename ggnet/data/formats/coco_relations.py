"""COCO's format for annotations with a list of relations beside them.

    {"images": [{"id": 1, "file_name": "a.jpg"}],
     "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "horse"}],
     "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [x, y, w, h]}, ...],
     "relations": [{"subject_id": 7, "object_id": 8, "verb": "ride"}, ...]}

subject_id and object_id are ids of annotations. In place of `verb` a relation may have `verb_id`,
an id in a list `verbs` like `categories`.
"""

from pathlib import Path
from typing import Any

from ggnet.data.annotations import read_json
from ggnet.data.formats.entry import Entry
from ggnet.data.formats.named import Relations, file_name
from ggnet.data.problems import Problems
from ggnet.errors import UserError


def read_file(
    path: Path, images: Path, person: str, problems: Problems
) -> tuple[list[Entry], dict[str, int]]:
    """All images, and the ids of the categories' names.

    Raises:
        UserError: the file is not of that form, or an id is not there.
    """
    values = read_json(path)
    if isinstance(values, dict) and "images" in values and "relations" not in values:
        raise UserError(
            f"{path} has no relations: who does what with which box. Add a list relations "
            "[{subject_id, object_id, verb}] of ids of annotations, or annotate them with Label "
            "Studio or CVAT, see docs/own-data.md"
        )
    step = "the lists"
    try:
        names = {row["id"]: str(row["name"]).strip() for row in values["categories"]}
        verbs = {row["id"]: str(row["name"]) for row in values.get("verbs", ())}
        entries = {
            row["id"]: Entry((name := file_name(row["file_name"], images)), name)
            for row in values["images"]
        }
        boxes: dict[Any, tuple[Any, int]] = {}  # annotation -> image and index
        for row in values["annotations"]:
            step = f"annotation {row.get('id')}"
            x, y, width, height = (float(number) for number in row["bbox"])
            entry = entries[row["image_id"]]
            index = entry.box([x, y, x + width, y + height], names[row["category_id"]])
            boxes[row["id"]] = row["image_id"], index
        relations = {
            image: Relations(entry, person, problems, path) for image, entry in entries.items()
        }
        for number, row in enumerate(values["relations"]):
            step = f"relation {number}"
            (image, subject), (other, object_) = boxes[row["subject_id"]], boxes[row["object_id"]]
            if image != other:
                raise ValueError("its boxes are in different images")
            verb = str(row["verb"]) if "verb" in row else verbs[row["verb_id"]]
            relations[image].add(subject, object_, [verb], step)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"{path}, {step}: {problem}; expected COCO's images, categories and annotations, and "
            "relations [{subject_id, object_id, verb}] with ids that exist"
        ) from None
    return list(entries.values()), {name: id_ for id_, name in names.items()}

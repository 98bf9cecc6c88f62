"""The same annotations as three tools export them: photos of people, a horse and a ball."""

import json
import uuid
from pathlib import Path
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

WIDTH, HEIGHT = 160, 120
VERBS = {"horse": ["ride", "feed"], "ball": ["kick"]}


def photos(folder: Path, count: int) -> list[dict]:
    """Write `count` photos; their boxes [x1, y1, x2, y2, label] and pairs (human, thing, verbs)."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    images = []
    for number in range(count):
        pixels = random.integers(60, 120, (HEIGHT, WIDTH, 3), np.uint8)
        thing = ("horse", "ball")[number % 2]
        x, y = random.integers(4, 30, 2).tolist()
        boxes = [[x, y, x + 40, y + 80, "person"], [x + 30, y + 40, x + 110, y + 85, thing]]
        for (x1, y1, x2, y2, _), color in zip(boxes, ((220, 80, 60), (70, 200, 90)), strict=True):
            cv2.rectangle(pixels, (x1, y1), (x2, y2), color, -1)
        name = f"photo{number:02}.jpg"
        cv2.imwrite(str(folder / name), pixels)
        verbs = VERBS[thing][: 1 + number % 4 // 2]
        images.append({"name": name, "boxes": boxes, "pairs": [(0, 1, verbs)]})
    return images


def label_studio(images: list[dict]) -> str:
    """Its JSON export; every photo was uploaded."""
    random = np.random.default_rng(1)
    tasks = []
    for number, image in enumerate(images):
        regions = [uuid.UUID(bytes=random.bytes(16)).hex[:10] for _ in image["boxes"]]
        result = [
            {
                "id": region,
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": WIDTH,
                "original_height": HEIGHT,
                "image_rotation": 0,
                "value": {
                    "x": 100 * x1 / WIDTH,
                    "y": 100 * y1 / HEIGHT,
                    "width": 100 * (x2 - x1) / WIDTH,
                    "height": 100 * (y2 - y1) / HEIGHT,
                    "rotation": 0,
                    "rectanglelabels": [label],
                },
            }
            for region, (x1, y1, x2, y2, label) in zip(regions, image["boxes"], strict=True)
        ]
        result += [
            {
                "type": "relation",
                "from_id": regions[human],
                "to_id": regions[thing],
                "direction": "right",
                "labels": verbs,
            }
            for human, thing, verbs in image["pairs"]
        ]
        name = f"/data/upload/1/{random.bytes(4).hex()}-{image['name']}"
        annotation = {"id": number, "was_cancelled": False, "result": result}
        tasks.append({"id": number, "data": {"image": name}, "annotations": [annotation]})
    return json.dumps(tasks)


def cvat(images: list[dict]) -> str:
    """Its XML export for images, the verbs at the things; each has one person at most."""
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    for number, image in enumerate(images):
        head = f'<image id="{number}" name={quoteattr(image["name"])}'
        lines.append(f'{head} width="{WIDTH}" height="{HEIGHT}">')
        group, verbs_of = {}, {}
        for human, thing, verbs in image["pairs"]:
            group[human] = group[thing] = human + 1
            verbs_of[thing] = verbs
        for index, (x1, y1, x2, y2, label) in enumerate(image["boxes"]):
            corners = f'xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" ybr="{y2:.2f}"'
            ends = f'occluded="0" z_order="0" group_id="{group.get(index, 0)}"'
            lines.append(f"<box label={quoteattr(label)} {corners} {ends}>")
            verbs = ", ".join(verbs_of.get(index, ()))
            lines.append(f'<attribute name="verb">{verbs}</attribute>')
            lines.append("</box>")
        lines.append("</image>")
    return "\n".join([*lines, "</annotations>"])


def coco_relations(images: list[dict]) -> str:
    """COCO's JSON with relations."""
    names = ["person", "horse", "ball"]
    values = {
        "images": [{"id": number, "file_name": row["name"]} for number, row in enumerate(images)],
        "categories": [{"id": 5 * id_, "name": name} for id_, name in enumerate(names, 1)],
        "annotations": [],
        "relations": [],
    }
    for number, image in enumerate(images):
        first = len(values["annotations"])
        for x1, y1, x2, y2, label in image["boxes"]:
            values["annotations"].append(
                {
                    "id": len(values["annotations"]),
                    "image_id": number,
                    "category_id": 5 * (names.index(label) + 1),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
        values["relations"] += [
            {"subject_id": first + human, "object_id": first + thing, "verb": verb}
            for human, thing, verbs in image["pairs"]
            for verb in verbs
        ]
    return json.dumps(values)


TOOLS = {
    "label-studio": ("export.json", label_studio),
    "cvat": ("annotations.xml", cvat),
    "coco-relations": ("relations.json", coco_relations),
}

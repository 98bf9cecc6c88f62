"""CVAT's XML export "CVAT for images 1.1": boxes, related by groups.

CVAT has no relations with names. Its way is a group (key G) of those who interact, and the verb as
a text or choice attribute, of the object where one person does something to several things, of the
person where several persons do something to one thing. A box is in one group at most
(https://docs.cvat.ai/docs/other/xml_format, cvat-ai/cvat issues 7121 and 7361).
"""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from xml.parsers import expat

from ggnet.data.formats.entry import Entry
from ggnet.data.formats.named import Relations, envelope, file_name
from ggnet.data.problems import Problems
from ggnet.errors import UserError

VERBS = {"verb", "verbs", "action", "actions", "relation", "interaction"}  # attributes' names
NONE = {"", "none", "__undefined__"}
EXPECTED = 'CVAT\'s export "CVAT for images 1.1" (annotations.xml)'


def read_file(path: Path, images: Path, person: str, problems: Problems) -> list[Entry]:
    """All images.

    Raises:
        UserError: the file is not of that form.
    """
    root = _parse(path)
    if root.find("track") is not None:
        raise UserError(f"{path} has tracks of a video; expected {EXPECTED}: export it as that")
    entries = []
    for number, image in enumerate(root.iter("image")):
        try:
            entries.append(_entry(image, path, images, person, problems))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, image {number}: {type(error).__name__}: {error}; expected {EXPECTED}, "
                "<image name> with <box label xtl ytl xbr ybr>"
            ) from None
    return entries


def _parse(path: Path) -> ET.Element:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if data.startswith(b"PK"):
        raise UserError(f"{path} is a zip archive; unpack it and give its annotations.xml")
    try:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.Parse(data, True)
        root = ET.fromstring(data)
    except (expat.ExpatError, ET.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{path} is not valid XML: {error}; expected {EXPECTED}") from None
    if root.tag != "annotations":
        raise UserError(f"{path} holds <{root.tag}>; expected <annotations> of {EXPECTED}")
    return root


def _refuse_doctype(*_: object) -> None:
    """Its entities can make gigabytes of a few bytes; CVAT writes none."""
    raise ValueError("it has a document type declaration")


def _entry(image: ET.Element, path: Path, images: Path, person: str, problems: Problems) -> Entry:
    name = file_name(image.attrib["name"], images)
    entry = Entry(name, name)
    groups: dict[str, list[tuple[int, list[str]]]] = {}  # -> boxes and their verbs
    others = 0
    for shape in image:
        if shape.tag != "box":
            others += shape.tag != "tag"
            continue
        index = entry.box(_corners(shape), shape.attrib["label"].strip())
        if shape.get("group_id", "0") != "0":
            groups.setdefault(shape.attrib["group_id"], []).append((index, _verbs(shape)))
    relations = Relations(entry, person, problems, path)
    if others:
        relations.note("not a labelled rectangle", "shapes", f"{others} of another kind")
    for group, members in groups.items():
        _relate(members, relations, f"group {group}")
    return entry


def _relate(members: list[tuple[int, list[str]]], relations: Relations, where: str) -> None:
    people = [row for row in members if relations.labels[row[0]] == relations.person]
    things = [row for row in members if relations.labels[row[0]] != relations.person]
    if len(people) == 2 and not things:  # the one with the verb does it to the other
        people.sort(key=lambda row: not row[1])
        people, things = people[:1], [(people[1][0], [])]
    if len(people) != 1 and len(things) != 1 or not (people and things):
        relations.note(
            "ambiguous group", where, f"{len(people)} persons and {len(things)} other boxes"
        )
        return
    for human, mine in people:
        for thing, its in things:
            verbs = (its or mine) if len(people) == 1 else (mine or its)
            relations.add(human, thing, verbs, where)


def _verbs(box: ET.Element) -> list[str]:
    values = [
        row.text or "" for row in box.iter("attribute") if row.attrib["name"].lower() in VERBS
    ]
    verbs = [verb.strip() for value in values for verb in re.split("[,;]", value)]
    return [verb for verb in verbs if verb.lower() not in NONE]


def _corners(box: ET.Element) -> list[float]:
    x1, y1, x2, y2 = (float(box.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    middle = (x1 + x2) / 2, (y1 + y2) / 2
    return envelope([x1, y1, x2, y2], float(box.get("rotation", 0)), middle)

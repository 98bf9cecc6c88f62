"""Annotation tools' exports become the dataset that was drawn, whatever the tool."""

import json
import math

import numpy as np
import pytest
import tool_exports
from tool_exports import TOOLS

from ggnet.data.annotations import load_dataset
from ggnet.data.convert import convert
from ggnet.data.formats.named import envelope, file_name
from ggnet.data.problems import Problems
from ggnet.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Write an export, change it and convert it; the dataset's training records by file name."""

    def run(tool, images, change=lambda text: text, **options):
        name, export = TOOLS[tool]
        file = tmp_path / name
        file.write_text(change(export(images)))
        problems = Problems()
        options = {"train_images": tmp_path / "photos", "problems": problems} | options
        dataset = convert(tool, tmp_path / "mine", train=file, **options)
        records = dataset.load("train", look_for_images=False)
        return dataset, {record.file_name: record for record in records}, dict(problems.counts)

    return run


def drawn(dataset, record):
    """A record in the words of `tool_exports.photos`."""
    names = dataset.vocabulary
    boxes = [
        [*box, names.objects[label]]
        for box, label in zip(record.boxes.tolist(), record.labels, strict=True)
    ]
    return boxes, {(h, o, names.verbs[v]) for h, o, v in record.pairs.tolist()}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_was_drawn_is_what_is_read(write, tmp_path, tool):
    images = tool_exports.photos(tmp_path / "photos", 6)
    dataset, records, problems = write(tool, images)
    assert problems == {}
    assert dataset.vocabulary.objects == ("person", "ball", "horse")
    assert dataset.vocabulary.verbs == ("feed", "kick", "ride")
    assert dataset.vocabulary.hois == ((0, 2), (1, 1), (2, 2))
    expected_ids = (5, 15, 10) if tool == "coco-relations" else (1, 2, 3)
    assert dataset.vocabulary.object_ids == expected_ids
    assert records.keys() == {image["name"] for image in images}
    for image in images:
        boxes, pairs = drawn(dataset, records[image["name"]])
        assert pairs == {(h, o, verb) for h, o, verbs in image["pairs"] for verb in verbs}
        for (*box, label), (*expected, name) in zip(boxes, image["boxes"], strict=True):
            assert label == name
            np.testing.assert_allclose(box, expected, atol=1e-9)
        assert records[image["name"]].path.name == image["name"]
    assert len(load_dataset(tmp_path / "mine").load("train")) == 6  # with the photos there


@pytest.mark.parametrize("tool", TOOLS)
def test_shares_are_held_out(write, tmp_path, tool):
    images = tool_exports.photos(tmp_path / "photos", 20)

    def splits():
        dataset, *_ = write(tool, images, val=0.5, test="0.25")
        assert len(dataset.load("val")) == 10  # with its images, which are train's
        return {
            name: {r.file_name for r in dataset.load(name, look_for_images=False)}
            for name in ("train", "val", "test")
        }

    first = splits()
    assert {name: len(files) for name, files in first.items()} == {"train": 5, "val": 10, "test": 5}
    assert set.union(*first.values()) == {image["name"] for image in images}
    images.reverse()
    assert splits() == first  # the order in the file does not matter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": 1.5}, "val is 1.5; expected a file, or a share between 0 and 1"),
        ({"val": "0"}, "val is 0; expected"),
        ({"val": 0.5, "test": 0.5}, "shares of less than 1"),
        ({"val": 0.9}, "2 training images are too few"),
        ({"person": "people"}, "no box is labelled 'people', but ball, horse, person; say which"),
    ],
)
def test_wrong_options(write, tmp_path, options, message):
    images = tool_exports.photos(tmp_path / "photos", 2)
    with pytest.raises(UserError, match=message):
        write("label-studio", images, **options)


def test_a_file_from_which_nothing_can_be_held_out(tmp_path):
    with pytest.raises(UserError, match="held out from train: give its file"):
        convert("cvat", tmp_path / "mine", test=tmp_path / "a.xml", val=0.1)
    with pytest.raises(UserError, match="did you mean 'label-studio'"):
        convert("labelstudio", tmp_path / "mine", train=tmp_path / "a.json")


def result_of(text):
    tasks = json.loads(text)
    return tasks, tasks[0]["annotations"][0]["result"]


def changed(change):
    """A change of the first task's results, as a change of the export."""

    def of_text(text):
        tasks, result = result_of(text)
        change(tasks, result)
        return json.dumps(tasks)

    return of_text


@pytest.mark.parametrize(
    "change",
    [
        lambda tasks, result: result[2].update(direction="left"),  # only one of them is a person
        lambda tasks, result: result[2].update(direction="bi"),
        lambda tasks, result: result.reverse(),  # the relation before its boxes, boxes exchanged
        lambda tasks, result: tasks[0]["data"].update(
            image="https://host/photos/photo00.jpg?token=1"
        ),
        lambda tasks, result: tasks[0]["data"].update(
            image="/data/local-files/?d=somewhere%2Fphotos/photo00.jpg"
        ),
        lambda tasks, result: tasks[0].update(data={"id": "", "photo": "photo00.jpg"}),
        lambda tasks, result: tasks[0]["annotations"].insert(0, {"was_cancelled": True}),
    ],
)
def test_label_studios_ways_to_say_the_same(write, tmp_path, change):
    images = tool_exports.photos(tmp_path / "photos", 2)
    dataset, records, problems = write("label-studio", images, changed(change))
    assert problems == {}
    boxes, pairs = drawn(dataset, records["photo00.jpg"])
    assert [boxes[h][4] + verb + boxes[o][4] for h, o, verb in pairs] == ["personridehorse"]


def test_label_studio_between_two_persons(write, tmp_path):
    images = tool_exports.photos(tmp_path / "photos", 2)
    images[0]["boxes"][1][4] = "person"
    for direction, expected in (
        ("right", {(0, 1, "ride")}),
        ("left", {(1, 0, "ride")}),
        ("bi", {(0, 1, "ride"), (1, 0, "ride")}),
    ):
        dataset, records, _ = write(
            "label-studio", images, changed(lambda t, r, d=direction: r[2].update(direction=d))
        )
        assert drawn(dataset, records["photo00.jpg"])[1] == expected


@pytest.mark.parametrize(
    ("change", "kind", "pairs"),
    [
        (lambda t, r: r[2].pop("labels"), "relation without a verb", 0),
        (
            lambda t, r: r[0]["value"].update(rectanglelabels=["dog"]),
            "relation without a person",
            0,
        ),
        (lambda t, r: r[2].update(to_id="gone"), "relation of no box", 0),
        (
            lambda t, r: r.append({"id": "x", "type": "polygonlabels", "value": {"points": []}}),
            "not a labelled rectangle",
            1,
        ),
        (lambda t, r: t[0].update(annotations=[]), "image not annotated", None),
        (lambda t, r: r[0].update(image_rotation=90), "rotated image", None),
        (
            lambda t, r: t[0]["annotations"].append({"result": [], "ground_truth": False}),
            "several annotations",
            1,
        ),
        (
            lambda t, r: t[0]["annotations"].append({"result": [], "ground_truth": True}),
            "several annotations",
            None,  # without a box it is no training image
        ),
    ],
)
def test_label_studios_gaps_are_noted(write, tmp_path, change, kind, pairs):
    images = tool_exports.photos(tmp_path / "photos", 4)
    _, records, problems = write("label-studio", images, changed(change))
    assert problems.pop(kind) == 1
    problems.pop("training image without boxes", None)
    assert problems == {}
    found = records.get("photo00.jpg")
    assert (None if found is None else len(found.pairs)) == pairs


@pytest.mark.parametrize(
    ("tool", "change", "message"),
    [
        ("label-studio", lambda text: "{}", "holds a dict; expected Label Studio's list"),
        ("label-studio", lambda text: '[{"image": "a.jpg", "label": []}]', "JSON-MIN"),
        ("label-studio", lambda text: text.replace('"original_width"', '"w"'), "original_width"),
        (
            "label-studio",
            lambda text: text.replace('"ride"', '""').replace('"kick"', '""'),
            "no re",
        ),
        ("cvat", lambda text: text[:-30], "is not valid XML"),
        ("cvat", lambda text: "PK\x03\x04", "is a zip archive; unpack it"),
        ("cvat", lambda text: "<VOC></VOC>", "holds <VOC>; expected <annotations>"),
        ("cvat", lambda text: "<annotations><track/></annotations>", "has tracks of a video"),
        ("cvat", lambda text: text.replace("xtl", "left"), "image 0: KeyError: 'xtl'"),
        ("cvat", lambda text: text.replace('xbr="', 'xbr="inf'), "image 0: ValueError"),
        (
            "cvat",
            lambda text: '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>',
            "document type declaration",
        ),
        ("coco-relations", lambda text: text.replace("relations", "r"), "Add a list relations"),
        (
            "coco-relations",
            lambda text: text.replace('"subject_id": 0', '"subject_id": 99'),
            "no 99",
        ),
        (
            "coco-relations",
            lambda text: text.replace('"object_id": 1', '"object_id": 3'),
            "different",
        ),
        (
            "coco-relations",
            lambda text: text.replace('"category_id": 5', '"category_id": 6'),
            "no 6",
        ),
        (
            "coco-relations",
            lambda text: text.replace('"verb"', '"verb_id"'),
            "relation 0: no 'ride'",
        ),
        ("coco-relations", lambda text: "[]", "expected COCO's images"),
    ],
)
def test_what_is_no_such_export_is_named(write, tmp_path, tool, change, message):
    images = tool_exports.photos(tmp_path / "photos", 2)
    with pytest.raises(UserError, match=message):
        write(tool, images, change)
    assert not (tmp_path / "mine").exists()


def cvat_image(*boxes):
    """An export of one photo with boxes of (label, group, verb)."""
    lines = ['<annotations><image name="sub/a.jpg" width="99" height="99">']
    for number, (label, group, verb) in enumerate(boxes):
        corners = f'xtl="{number}" ytl="0" xbr="{number + 20}" ybr="30"'
        lines.append(f'<box label="{label}" {corners} group_id="{group}">')
        lines.append(f'<attribute name="Action">{verb}</attribute></box>')
    return "".join([*lines, "</image></annotations>"])


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        # one person with two things, the verbs at the things
        (
            [("person", 1, ""), ("cup", 1, "hold, drink"), ("chair", 1, "sit")],
            {(0, 1, "hold"), (0, 1, "drink"), (0, 2, "sit")},
        ),
        # one person with one thing, the verb at the person
        ([("person", 4, "ride"), ("horse", 4, "__undefined__")], {(0, 1, "ride")}),
        # two persons with one thing, each has a verb of its own
        (
            [("person", 1, "ride"), ("horse", 1, "x"), ("person", 1, "feed"), ("cup", 0, "hold")],
            {(0, 1, "ride"), (2, 1, "feed")},
        ),
        ([("person", 1, ""), ("person", 1, "hug")], {(1, 0, "hug")}),
    ],
)
def test_cvats_groups(write, boxes, expected):
    dataset, records, problems = write("cvat", [], lambda _: cvat_image(*boxes))
    assert problems == {}
    assert drawn(dataset, records["a.jpg"])[1] == expected


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        ([("person", 2, "a"), ("person", 2, "b"), ("cup", 2, "c"), ("cup", 2, "d")], "ambiguous"),
        ([("cup", 2, "hold"), ("chair", 2, "sit")], "ambiguous"),
        ([("person", 2, "hold")], "ambiguous"),
        ([("person", 2, "none"), ("cup", 2, "")], "relation without a verb"),
    ],
)
def test_cvats_unclear_groups_are_noted(write, boxes, kind):
    clear = [("person", 1, ""), ("cup", 1, "hold")]
    _, records, problems = write("cvat", [], lambda _: cvat_image(*clear, *boxes))
    (noted,) = problems
    assert noted.startswith(kind)
    assert len(records["a.jpg"].pairs) == 1
    assert len(records["a.jpg"].boxes) == 2 + len(boxes)


def test_turned_rectangles():
    """Against the corners turned as complex numbers; y points down, so clockwise is positive."""
    random = np.random.default_rng(0)
    for _ in range(20):
        x1, y1, width, height, degrees, px, py = random.uniform(1, 50, 7)
        corners = [complex(x, y) for x in (x1, x1 + width) for y in (y1, y1 + height)]
        turn = complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
        turned = [(corner - complex(px, py)) * turn + complex(px, py) for corner in corners]
        expected = [
            min(c.real for c in turned),
            min(c.imag for c in turned),
            max(c.real for c in turned),
            max(c.imag for c in turned),
        ]
        found = envelope([x1, y1, x1 + width, y1 + height], degrees, (px, py))
        np.testing.assert_allclose(found, expected)
    # a flat box turned by a quarter about its upper left corner hangs to the left of it
    np.testing.assert_allclose(envelope([10, 10, 30, 14], 90, (10, 10)), [6, 10, 10, 30])


def test_images_are_found_by_what_their_path_ends_with(tmp_path):
    for name in ("cam1/a.jpg", "cam2/a.jpg", "b.jpg", "0123abcd-c.jpg", "d e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for given, expected in (
        ("/home/me/photos/cam2/a.jpg", "cam2/a.jpg"),
        ("C:\\photos\\cam1\\a.jpg", "cam1/a.jpg"),
        ("s3://bucket/x/b.jpg", "b.jpg"),
        ("/data/upload/3/0123abcd-b.jpg", "b.jpg"),
        ("/data/upload/3/0123abcd-c.jpg", "0123abcd-c.jpg"),  # the tool's own folder
        ("https://host/d%20e.jpg", "d e.jpg"),
        ("../../b.jpg", "b.jpg"),
        ("/data/upload/3/0123abcd-gone.jpg", "gone.jpg"),
    ):
        assert file_name(given, tmp_path) == expected

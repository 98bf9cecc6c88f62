"""Published annotation files become dataset folders; counts are those of the files."""

import json

import numpy as np
import pytest

from ggnet.data.annotations import load_annotations
from ggnet.data.convert import convert
from ggnet.data.problems import Problems
from ggnet.data.tables import hico_vocabulary, vcoco_actions
from ggnet.errors import UserError
from ggnet.eval.vcoco import RolePredictions, evaluate, read_roles


def records_of(dataset, split):
    """The converted records, and that the loader has nothing to complain about."""
    problems = Problems()
    path = dataset.splits[split].annotations
    records = load_annotations(path, None, dataset.vocabulary, problems)
    assert not problems.counts
    return records


def test_hico_json_of_the_whole_test_set(shared, tmp_path):
    dataset = convert("hico-json", tmp_path, test=shared / "hicodet_instances_test2015.json")
    assert dataset.vocabulary == hico_vocabulary()
    assert dataset.rare.sum() == 138
    records = records_of(dataset, "test")
    assert len(records) == 9658
    assert sum(len(record.pairs) for record in records) == 33405
    assert sum(not len(record.pairs) for record in records) == 112
    first = records[0]
    assert first.image_id == "HICO_test2015_00000001"
    names = {first.labels[o]: dataset.vocabulary.verbs[v] for _, o, v in first.pairs}
    assert {dataset.vocabulary.objects[label]: verb for label, verb in names.items()} == {
        "bench": "sit_on"
    }
    np.testing.assert_array_equal(first.boxes[first.pairs[0, 0]], [319, 305, 359, 349])
    corners = np.concatenate([record.boxes for record in records])
    assert corners.min() == 0  # counted from 1 in the file


def test_vcoco_json_takes_valid_pairs_from_train_only(shared, tmp_path):
    problems = Problems()
    path = shared / "vcoco_instances_val.json"
    dataset = convert("vcoco-json", tmp_path, train=path, problems=problems)
    records = records_of(dataset, "train")
    assert sum(len(record.pairs) for record in records) == 7417
    assert len(records) + problems.counts["training image without boxes"] == 2867
    values = json.loads(path.read_text())
    occurring = {
        (action, object_)
        for row in values["annotations"]
        for action, object_ in zip(row["actions"], row["objects"], strict=True)
    }
    assert len(dataset.vocabulary.hois) == len(occurring)
    with pytest.raises(UserError, match="needs its trainval file"):
        convert("vcoco-json", tmp_path, test=path)


def official_with_boxes(shared):
    """The official rows with a made-up box for every annotation id: COCO's are not at hand."""
    rows = json.loads((shared / "vcoco_official_val.json").read_text())
    image_of, people = {}, set(rows[0]["ann_id"])
    for row in rows:
        count = len(row["ann_id"])
        for position, image in enumerate(row["image_id"]):
            for role in range(len(row["role_name"])):
                if target := row["role_object_id"][role * count + position]:
                    image_of[target] = image
    per_image: dict[int, int] = {}
    annotations = []
    for id_, image in sorted(image_of.items()):
        slot = per_image[image] = per_image.get(image, -1) + 1
        box = [30.0 * (slot % 20), 40.0 * (slot // 20), 20.5, 30.0]  # apart from each other
        category = 1 if id_ in people else 37
        annotations.append(
            {"id": id_, "image_id": image, "bbox": box, "area": 600.0, "iscrowd": 0}
            | {"category_id": category}
        )
    images = [
        {"id": image, "file_name": f"COCO_train2014_{image:012}.jpg", "width": 640, "height": 480}
        for image in sorted(set(image_of.values()))
    ]
    return {"images": images, "annotations": annotations}


def as_predictions(truth):
    """The ground truth as predictions, scored in any order."""
    images = []
    for image_id, people in truth.items():
        rows = [
            (person.box, f"{action}_{role}", np.full(4, np.nan) if box is None else box)
            for person in people
            for action, roles in person.actions.items()
            for role, box in {"agent": None, **roles}.items()
        ]
        boxes, names, objects = zip(*rows, strict=True) if rows else ([], [], [])
        scores = np.random.default_rng(0).random(len(rows))
        shaped = (np.array(values).reshape(-1, 4) for values in (boxes, objects))
        images.append(RolePredictions(image_id, next(shaped), list(names), next(shaped), scores))
    return images


def test_vcoco_official(shared, tmp_path):
    coco = tmp_path / "instances.json"
    coco.write_text(json.dumps(official_with_boxes(shared)))
    path = shared / "vcoco_official_val.json"
    dataset = convert("vcoco-official", tmp_path / "out", train=path, test=path, coco=[coco])
    records = records_of(dataset, "test")
    assert len(records) == 2867
    truth = read_roles(dataset.splits["test"].roles)
    people = [person for persons in truth.values() for person in persons]
    assert sum(person.labelled for person in people) == 4499
    rows = json.loads(path.read_text())
    for row, action in zip(rows, vcoco_actions(), strict=True):
        assert sum(action.name in person.actions for person in people) == sum(row["label"])
    with_object = sum(
        box is not None
        for person in people
        for roles in person.actions.values()
        for box in roles.values()
    )
    assert sum(len(record.pairs) for record in records) == with_object
    result = evaluate(as_predictions(truth), truth)
    assert all(ap == 100 for ap in result.agent_ap.values())
    for scenario in result.role_ap.values():
        assert all(ap == 100 for ap in scenario.values())
    # inclusive [x, x + w - 1] is [x, x + w] in edges
    assert {round(float(b[2] - b[0]), 4) for record in records for b in record.boxes} == {20.5}


def test_vcoco_official_needs_every_image(shared, tmp_path):
    values = official_with_boxes(shared)
    path = shared / "vcoco_official_val.json"
    with pytest.raises(UserError, match="give COCO's instances files too"):
        convert("vcoco-official", tmp_path, train=path)
    missing = values["images"].pop(0)["id"]
    coco = tmp_path / "instances.json"
    coco.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"1 images of .*, the first with id {missing}"):
        convert("vcoco-official", tmp_path, train=path, coco=[coco])


def test_vcoco_official_drops_what_the_evaluator_drops(shared, tmp_path):
    """Boxes without area disappear; a role that pointed at one is reported."""
    values = official_with_boxes(shared)
    rows = json.loads((shared / "vcoco_official_val.json").read_text())
    count = len(rows[0]["ann_id"])
    positions = [p for p, label in enumerate(rows[0]["label"]) if label]
    target = next(i for p in positions if (i := rows[0]["role_object_id"][count + p]))
    next(row for row in values["annotations"] if row["id"] == target)["area"] = 0
    coco = tmp_path / "instances.json"
    coco.write_text(json.dumps(values))
    problems = Problems()
    path = shared / "vcoco_official_val.json"
    convert("vcoco-official", tmp_path / "out", train=path, coco=[coco], problems=problems)
    assert problems.counts["role without a box"] >= 1
    assert any(str(target) in problem.got for problem in problems.items)


def test_ppdm_hico_counts_from_one_and_has_text_ids(tmp_path):
    path = tmp_path / "test_hico.json"
    path.write_text(
        json.dumps(
            [
                {
                    "file_name": "HICO_test2015_00000001.jpg",
                    "img_id": 1,
                    "annotations": [
                        {"bbox": [1, 1, 20, 30], "category_id": "1\n"},
                        {"bbox": [11, 11, 40, 40], "category_id": "2\n"},
                    ],
                    "hoi_annotation": [
                        {"subject_id": 0, "object_id": 1, "category_id": "77"},
                        {"subject_id": 0, "object_id": -1, "category_id": "77"},
                    ],
                }
            ]
        )
    )
    problems = Problems()
    dataset = convert("hico-ppdm", tmp_path / "out", test=path, problems=problems)
    (record,) = records_of(dataset, "test")
    np.testing.assert_array_equal(record.boxes, [[0, 0, 20, 30], [10, 10, 40, 40]])
    assert dataset.vocabulary.hoi_name(dataset.vocabulary.hoi_index(76, 1)) == "ride bicycle"
    assert record.pairs.tolist() == [[0, 1, 76]]
    assert problems.counts == {"id as text": 3, "index out of range": 1}


def test_the_official_mat_files(tmp_path):
    """A file built as the official one is: nested structs, single elements not in arrays."""
    from scipy.io import savemat

    def box(x1, y1, x2, y2):
        return {"x1": x1, "x2": x2, "y1": y1, "y2": y2}

    def struct(rows):
        names = list(rows[0])
        return np.array([tuple(row[n] for n in names) for row in rows], [(n, "O") for n in names])

    ride, hold = hico_vocabulary().hoi_index([76, 36], [1, 1]) + 1
    one = {"id": ride, "bboxhuman": box(1, 1, 20, 30), "bboxobject": box(11, 11, 40, 40)}
    one |= {"connection": np.array([[1, 1]]), "invis": 0}
    hidden = {"id": hold, "bboxhuman": [], "bboxobject": [], "connection": [], "invis": 1}
    two = {
        "id": hold,
        "bboxhuman": struct([box(1, 1, 20, 30), box(51, 1, 70, 30)]),
        "bboxobject": struct([box(5, 5, 9, 9)]),
        "connection": np.array([[1, 1], [2, 1]]),
        "invis": 0,
    }
    images = struct(
        [
            {"filename": "HICO_test2015_00000001.jpg", "hoi": one},
            {"filename": "HICO_test2015_00000002.jpg", "hoi": struct([hidden, two])},
        ]
    )
    savemat(tmp_path / "anno_bbox.mat", {"bbox_test": images})
    labels = np.full((600, 2), np.nan)
    labels[ride - 1, 0], labels[hold - 1, 1], labels[-1, 1], labels[0, 0] = 1, 1, 1, -1
    names = np.array([row["filename"] for row in images], dtype=object)
    savemat(tmp_path / "anno.mat", {"list_test": names[:, None], "anno_test": labels})
    dataset = convert(
        "hico-mat",
        tmp_path / "out",
        test=tmp_path / "anno_bbox.mat",
        labels=tmp_path / "anno.mat",
    )
    first, second = records_of(dataset, "test")
    np.testing.assert_array_equal(first.boxes, [[0, 0, 20, 30], [10, 10, 40, 40]])
    assert first.pairs.tolist() == [[0, 1, 76]]
    assert second.pairs.tolist() == [[0, 1, 36], [2, 1, 36]]
    known = [dataset.vocabulary.objects[label] for label in second.known_objects]
    assert sorted(known) == ["bicycle", "zebra"]
    assert first.known_objects.tolist() == [1]


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        ("hico-json", "[]", "is not fredzzhang's HICO-DET JSON"),
        ("hico-json", '{"objects": ["unicorn"], "verbs": []}', "is not fredzzhang's"),
        ("vcoco-json", "{}", "is not fredzzhang's V-COCO JSON"),
        ("hico-ppdm", "{}", "expected a list of images"),
        ("hico-mat", "no", "cannot be read as a MATLAB file"),
        ("hico-coco", "", "unknown source 'hico-coco'; did you mean 'hico-json'"),
    ],
)
def test_other_files_are_refused(tmp_path, source, content, message):
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        convert(source, tmp_path / "out", train=path)
    assert not (tmp_path / "out" / "dataset.json").exists()


HICO_ROW = {"boxes_h": [[1, 1, 20, 30]], "boxes_o": [[11, 11, 40, 40]], "object": [0], "verb": [0]}
VCOCO_ROW = {"boxes_h": [[1, 1, 20, 30]], "boxes_o": [[11, 11, 40, 40]]}
VCOCO_ROW |= {"file_name": "COCO_train2014_000000000007.jpg", "objects": [1], "actions": [0]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"object": [-1]}, "index -1 of 1"),
        ({"verb": [-1]}, "index -1 of 1"),
        ({"verb": [0.5]}, "index 0.5 is not a whole number"),
        ({"boxes_h": [[1, 1, 20, 30, 9]]}, "too many values"),
        ({"boxes_o": [[1, 1, 20, float("nan")]]}, "is not finite"),
    ],
)
def test_hico_json_indices_and_boxes_are_checked(tmp_path, changes, message):
    values = {"objects": ["bicycle"], "verbs": ["ride"], "filenames": ["a.jpg"]}
    path = tmp_path / "test.json"
    path.write_text(json.dumps(values | {"annotation": [HICO_ROW]}))
    convert("hico-json", tmp_path / "out", test=path)
    path.write_text(json.dumps(values | {"annotation": [HICO_ROW | changes]}))
    with pytest.raises(UserError, match=rf"image 0 \(a.jpg\).*{message}"):
        convert("hico-json", tmp_path / "out", test=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": [-1]}, "index -1 of 2"),
        ({"objects": [0]}, "object 0 is the background"),
        ({"actions": [-1]}, "index -1 of 1"),
        ({"boxes_o": [[1, 1, 20, 30, 18]]}, "too many values"),
    ],
)
def test_vcoco_json_indices_and_boxes_are_checked(tmp_path, changes, message):
    values = {"objects": ["background", "surfboard"], "classes": ["surf instr"]}
    path = tmp_path / "trainval.json"
    path.write_text(json.dumps(values | {"annotations": [VCOCO_ROW]}))
    convert("vcoco-json", tmp_path / "out", train=path)
    path.write_text(json.dumps(values | {"annotations": [VCOCO_ROW | changes]}))
    with pytest.raises(UserError, match=f"image 0: .*{message}"):
        convert("vcoco-json", tmp_path / "out", train=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 0}, "index -1 of 600"),
        ({"id": 601}, "index 600 of 600"),
        ({"connection": np.array([[0, 1]])}, "index -1 of 1"),
        ({"connection": np.array([[1, 2]])}, "index 1 of 1"),
    ],
)
def test_mat_indices_are_checked(tmp_path, changes, message):
    from scipy.io import savemat

    box = {"x1": 1, "x2": 20, "y1": 1, "y2": 30}
    hoi = {"id": 1, "bboxhuman": box, "bboxobject": box, "invis": 0}
    image = {"filename": "a.jpg", "hoi": hoi | {"connection": np.array([[1, 1]])} | changes}
    savemat(tmp_path / "anno_bbox.mat", {"bbox_test": image})
    with pytest.raises(UserError, match=f"image 0: IndexError: {message}"):
        convert("hico-mat", tmp_path / "out", test=tmp_path / "anno_bbox.mat")


def test_a_mat_that_kills_its_decoder_ends_in_a_message(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, scipy.io\nscipy.io.loadmat = lambda *_, **__: os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="the decoder died of it"):
        convert("hico-mat", tmp_path / "out", test=tmp_path / "anno_bbox.mat")


def test_broken_mat_files_end_in_a_message(tmp_path):
    """Bytes of a good one changed at random."""
    from scipy.io import savemat

    box = {"x1": 1, "x2": 20, "y1": 1, "y2": 30}
    hoi = {"id": 1, "bboxhuman": box, "bboxobject": box, "invis": 0, "connection": [[1, 1]]}
    path = tmp_path / "anno_bbox.mat"
    savemat(path, {"bbox_test": {"filename": "a.jpg", "hoi": hoi}})
    good, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(8):
        content = bytearray(good)
        for at in rng.integers(128, len(content), 6):
            content[at] = rng.integers(256)
        path.write_bytes(content)
        try:
            convert("hico-mat", tmp_path / "out", test=path)
        except UserError:
            refused += 1
    assert refused > 4


def test_lists_of_different_lengths_are_named(tmp_path):
    path = tmp_path / "test.json"
    row = {"boxes_h": [[1, 1, 2, 2]], "boxes_o": [], "object": [0], "verb": [0], "hoi": [0]}
    values = {
        "objects": ["person"],
        "verbs": ["adjust"],
        "filenames": ["a.jpg"],
        "annotation": [row],
    }
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"image 0 \(a.jpg\).*equally long lists"):
        convert("hico-json", tmp_path / "out", test=path)
    with pytest.raises(UserError, match="nothing to convert"):
        convert("hico-json", tmp_path / "out")


def test_val_is_a_split_like_any_other(tmp_path):
    def write(name, *numbers):
        entries = [
            {
                "file_name": f"HICO_{number}.jpg",
                "annotations": [
                    {"bbox": [1, 1, 20, 30], "category_id": 1},
                    {"bbox": [11, 11, 40, 40], "category_id": 2},
                ],
                "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 77}],
            }
            for number in numbers
        ]
        (tmp_path / name).write_text(json.dumps(entries))
        return tmp_path / name

    files = {"train": write("train.json", *range(8)), "val": write("val.json", 8, 9)}
    dataset = convert("hico-ppdm", tmp_path / "files", **files, val_images=tmp_path / "photos")
    assert list(dataset.splits) == ["train", "val"]
    assert dataset.splits["val"].images == tmp_path / "photos"
    assert [record.file_name for record in records_of(dataset, "val")] == [
        "HICO_8.jpg",
        "HICO_9.jpg",
    ]
    files["val"] = 0.25
    dataset = convert("hico-ppdm", tmp_path / "shares", **files, test=files["train"])
    assert [len(records_of(dataset, split)) for split in ("train", "val", "test")] == [6, 2, 8]
    assert dataset.splits["val"].images == dataset.splits["train"].images


def test_roles_go_with_their_images(vcoco, tmp_path):
    """`vcoco` has one photo; the same rows for a second one, which is held out."""
    instances = json.loads((tmp_path / "instances.json").read_text())
    instances["images"].append(instances["images"][0] | {"id": 8, "file_name": "b_8.jpg"})
    rows = json.loads((tmp_path / "vcoco_test.json").read_text())
    for row in instances["annotations"][:]:
        instances["annotations"].append(row | {"id": row["id"] + 1, "image_id": 8})
    for row in rows:
        count = len(row["ann_id"])
        columns = [
            row["role_object_id"][start : start + count]
            for start in range(0, len(row["role_object_id"]), count)
        ]
        row["role_object_id"] = [
            id_ for column in columns for id_ in (*column, *(i + bool(i) for i in column))
        ]
        row["image_id"] += [8, 8]
        row["ann_id"] += [id_ + 1 for id_ in row["ann_id"]]
        row["label"] *= 2
    (tmp_path / "two.json").write_text(json.dumps(rows))
    (tmp_path / "both.json").write_text(json.dumps(instances))
    dataset = convert(
        "vcoco-official",
        tmp_path / "held",
        train=tmp_path / "two.json",
        val=0.5,
        coco=[tmp_path / "both.json"],
    )
    for split in ("train", "val"):
        (record,) = records_of(dataset, split)
        (roles,) = json.loads(dataset.splits[split].roles.read_text())
        assert roles["image_id"] == record.image_id

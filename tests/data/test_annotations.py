"""The dataset folder and annotation file: what is read, what is refused, what is reported."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from ggnet.data.annotations import hoi_counts, load_annotations, load_dataset
from ggnet.data.problems import Problems
from ggnet.data.vocabulary import Vocabulary
from ggnet.errors import UserError

VOCABULARY = Vocabulary(
    name="tiny",
    objects=("person", "dog", "ball"),
    object_ids=(1, 18, 37),
    verbs=("pet", "throw", "walk"),
    verb_ids=(5, 7, 9),
    hois=((0, 1), (1, 2), (2, 1)),
)
PERSON = {"bbox": [10, 20, 50.5, 90], "category_id": 1}
DOG = {"bbox": [60, 40, 90, 80], "category_id": 18}
PET = {"subject_id": 0, "object_id": 1, "category_id": 5}


def entry(name="a.jpg", **changes):
    values = {"file_name": name, "annotations": [PERSON, DOG], "hoi_annotation": [PET]}
    return values | changes


def pair(**changes):
    return PET | changes


@pytest.fixture
def load(tmp_path):
    """Write entries (and an image for each, unless named missing.jpg) and load them."""

    def load(entries, problems=None):
        images = tmp_path / "images"
        images.mkdir(exist_ok=True)
        for item in entries if isinstance(entries, list) else []:
            name = isinstance(item, dict) and item.get("file_name")
            if isinstance(name, str) and name.strip() and name != "missing.jpg":
                (images / name.strip()).parent.mkdir(exist_ok=True)
                Image.new("RGB", (100, 100)).save(images / name.strip())
        path = tmp_path / "train.json"
        path.write_text(json.dumps(entries))
        return load_annotations(path, images, VOCABULARY, problems)

    return load


def test_reads_ids_as_indices(load):
    (record,) = load([entry(img_id=12)])
    assert (record.file_name, record.image_id, record.path.name) == ("a.jpg", "12", "a.jpg")
    np.testing.assert_array_equal(record.boxes, [[10, 20, 50.5, 90], [60, 40, 90, 80]])
    assert record.labels.tolist() == [0, 1]
    assert record.pairs.tolist() == [[0, 1, 0]]


def test_image_id_defaults_to_the_file_name(load):
    """Which is unique, as its parts are not: cameras number their photos alike."""
    names = ["photo_7.jpg", "photo_7.png", "cam1/photo_7.jpg", "cam2/photo_7.jpg"]
    assert [record.image_id for record in load([entry(name) for name in names])] == names


def test_ids_as_text_with_line_breaks_and_verb_lists(load):
    problems = Problems()
    boxes = [PERSON | {"category_id": "1\n"}, DOG]
    pairs = [pair(category_id=[5, "9\n"])]
    (record,) = load([entry(annotations=boxes, hoi_annotation=pairs)], problems)
    assert record.labels.tolist() == [0, 1]
    assert record.pairs.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert problems.counts == {"id as text": 2}


@pytest.mark.parametrize(
    ("change", "kind", "boxes_left", "pairs_left"),
    [
        ({"hoi_annotation": [PET, pair(object_id=-1)]}, "index out of range", 2, 1),
        ({"hoi_annotation": [pair(subject_id=2)]}, "index out of range", 2, 0),
        ({"hoi_annotation": [{"subject_id": 0}]}, "index out of range", 2, 0),
        ({"hoi_annotation": ["pet"]}, "pair not an object", 2, 0),
        ({"hoi_annotation": [pair(category_id=6)]}, "unknown verb id", 2, 0),
        ({"hoi_annotation": [PET, PET]}, "duplicate pair", 2, 1),
        ({"hoi_annotation": [pair(subject_id=1, object_id=0)]}, "subject not a person", 2, 0),
        ({"hoi_annotation": [pair(category_id=7)]}, "pair not in hois", 2, 1),
        ({"hoi_annotation": None}, "no hoi_annotation", 2, 0),
        ({"annotations": [PERSON, DOG | {"category_id": 3}]}, "unknown object id", 1, 0),
        ({"annotations": [PERSON, DOG | {"bbox": [60, 40, 60, 80]}]}, "zero-area box", 1, 0),
        ({"annotations": [PERSON, DOG | {"bbox": [60, 40, 30, 40]}]}, "zero-area box", 1, 0),
        ({"annotations": [PERSON, DOG | {"bbox": [60, 40, 90]}]}, "box not a box", 1, 0),
        ({"annotations": [PERSON, DOG | {"bbox": [60, 40, "90", 80]}]}, "box not a box", 1, 0),
        ({"annotations": [PERSON, DOG | {"bbox": [0, 0, float("inf"), 8]}]}, "box not a box", 1, 0),
        ({"annotations": [PERSON, 7]}, "box not a box", 1, 0),
    ],
)
def test_broken_records_are_left_out_and_reported(load, change, kind, boxes_left, pairs_left):
    problems = Problems()
    (record,) = load([entry(**change)], problems)
    assert len(record.boxes) == len(record.labels) == boxes_left
    assert len(record.pairs) == pairs_left
    assert problems.counts[kind] == 1
    expected = {kind, "pair of a broken box"} if boxes_left == 1 else {kind}
    assert set(problems.counts) == expected
    first = str(problems.items[0])
    assert "train.json" in first
    assert "image 0 (a.jpg)" in first
    assert "; expected " in first


def test_indices_follow_when_a_box_is_left_out(load):
    broken = {"bbox": [0, 0, 0, 0], "category_id": 1}
    pairs = [pair(subject_id=1, object_id=2)]
    (record,) = load([entry(annotations=[broken, PERSON, DOG], hoi_annotation=pairs)], Problems())
    assert record.pairs.tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ("not an object", "record not an object"),
        (entry(None), "no file name"),
        (entry("  "), "no file name"),
        (entry("b.jpg", annotations=None), "no annotations"),
        (entry("missing.jpg"), "missing image"),
    ],
)
def test_broken_images_are_left_out_and_reported(load, broken, kind):
    problems = Problems()
    records = load([broken, entry()], problems)
    assert [record.file_name for record in records] == ["a.jpg"]
    assert problems.counts == {kind: 1}


@pytest.mark.parametrize("second", [entry(), entry("b.jpg", img_id="a.jpg")])
def test_repeated_images_stop_with_their_name(load, second):
    with pytest.raises(UserError, match=r"repeated images.*'a(\.jpg)?' was used before"):
        load([entry(), second])


def test_a_file_without_usable_images_stops(load):
    with pytest.raises(UserError, match="no usable image.*missing image"):
        load([entry("missing.jpg")])
    with pytest.raises(UserError, match="The list is empty"):
        load([])


def test_a_file_of_another_structure_stops(load):
    with pytest.raises(UserError, match="holds a dict; expected a list of images"):
        load({"images": []})


def test_a_file_in_cocos_format_is_named(load):
    with pytest.raises(UserError, match="in COCO's format, which has boxes but not who does what"):
        load({"images": [], "categories": [], "annotations": []})


def test_a_missing_or_cut_file_stops(tmp_path):
    with pytest.raises(UserError, match="cannot read .*none.json: No such file"):
        load_annotations(tmp_path / "none.json", None, VOCABULARY)
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps([entry()])[:40])
    with pytest.raises(UserError, match="not valid JSON.*line 1, column"):
        load_annotations(cut, None, VOCABULARY)


def test_a_missing_image_folder_stops(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([entry()]))
    with pytest.raises(UserError, match="image folder .*nowhere does not exist"):
        load_annotations(path, tmp_path / "nowhere", VOCABULARY)


def test_known_objects_that_are_unknown_are_noted(load):
    problems = Problems()
    entries = [
        entry(known_objects=[18, 99, "18"]),
        entry("b.jpg", known_objects=18),
        entry("c.jpg"),
    ]
    first, second, third = load(entries, problems)
    assert first.known_objects.tolist() == [1, 1]
    assert second.known_objects is third.known_objects is None
    assert problems.counts == {
        "unknown known object": 1,
        "known_objects not a list": 1,
        "id as text": 1,
    }
    assert "image 0 (a.jpg): unknown known object: id 99" in str(problems)


def test_problems_are_logged_when_nobody_collects_them(load, caplog):
    with caplog.at_level(logging.WARNING, "ggnet"):
        load([entry(hoi_annotation=[pair(object_id=-1), pair(object_id=-1)])])
    assert "2 x index out of range" in caplog.text


def test_counts_per_hoi(load):
    pairs = [PET, pair(category_id=9), pair(category_id=7)]  # throwing a dog is no HOI
    records = load([entry(hoi_annotation=pairs), entry("b.jpg")], Problems())
    assert hoi_counts(records, VOCABULARY).tolist() == [2, 0, 1]


DESCRIPTION = {
    "name": "tiny",
    "version": "1",
    "objects": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    "verbs": [{"id": 5, "name": "pet"}],
    "hois": [[5, 18]],
    "splits": {"train": {"annotations": "train.json", "images": "images"}},
}


def write_description(root, **changes):
    values = {key: value for key, value in (DESCRIPTION | changes).items() if value is not None}
    (root / "dataset.json").write_text(json.dumps(values))
    return root


def test_loads_a_dataset_folder(tmp_path):
    dataset = load_dataset(write_description(tmp_path, rare=[0]))
    assert dataset.vocabulary.hois == ((0, 1),)
    assert dataset.vocabulary.object_ids == (1, 18)
    assert dataset.rare.tolist() == [True]
    Image.new("RGB", (100, 100)).save(tmp_path / "a.jpg")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "train.json").write_text(json.dumps([entry()]))
    assert dataset.load("train")[0].pairs.tolist() == [[0, 1, 0]]
    with pytest.raises(UserError, match="no split 'val'; it has train"):
        dataset.load("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verbs": None}, "no 'verbs'"),
        ({"hois": [[6, 18]]}, "no 6 where it is needed"),
        ({"hois": [[5, 18], [5, 18]]}, "HOI pairs repeat"),
        ({"objects": []}, "no 18"),
        ({"verbs": [{"id": 5, "name": "pet"}, {"id": 6, "name": "pet"}]}, "verbs repeat 'pet'"),
        ({"verbs": [{"id": 5, "name": "pet"}, {"id": 5, "name": "hug"}]}, "2 verb names but 1"),
        ({"splits": []}, "not a valid dataset description"),
        (
            {"objects": DESCRIPTION["objects"][::-1]},
            "the first object is 'dog'; expected the person",
        ),
        ({"verbs": [{"id": "5", "name": "pet"}], "hois": []}, "id '5' is not a whole number"),
        ({"rare": [4]}, "rare holds 4; expected indices of the"),
        ({"rare": [-1]}, "rare holds -1"),
        ({"rare": [True]}, "rare holds True"),
    ],
)
def test_a_broken_description_stops(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        load_dataset(write_description(tmp_path, **changes))


def test_rare_null_is_no_list(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(DESCRIPTION | {"rare": None}))
    assert load_dataset(tmp_path).rare is None


def test_a_folder_that_is_no_dataset_stops(tmp_path):
    with pytest.raises(UserError, match="has no dataset.json"):
        load_dataset(tmp_path)


def test_vocabulary_survives_json():
    again = Vocabulary.from_dict(json.loads(json.dumps(VOCABULARY.to_dict())))
    assert again == VOCABULARY
    assert again.hoi_index([0, 1, 0], [1, 2, 2]).tolist() == [0, 1, -1]
    assert again.valid_pairs.sum() == 3
    assert again.hoi_name(1) == "throw ball"

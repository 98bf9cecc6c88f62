"""A file whose ids mean something else than its source says is not read as if they did."""

import json

import pytest

from ggnet.data.convert import convert
from ggnet.data.tables import read_table, vcoco_numbering
from ggnet.errors import UserError

PERSON, BALL, SURFBOARD, CUP = 1, 37, 42, 47
PAIRS = [("surf_instr", SURFBOARD), ("hold_obj", CUP), ("kick_obj", BALL)]


def write(path, source, pairs):
    """A file of `source` with an image for each (verb, object id); the person walks, too."""
    ids = {name: id_ for id_, name in enumerate(vcoco_numbering(source).verbs)}
    entries = [
        {
            "file_name": f"COCO_train2014_{number:012}.jpg",
            "annotations": [
                {"bbox": [1, 2, 30, 40], "category_id": PERSON},
                {"bbox": [20, 30, 50, 60], "category_id": object_id},
            ],
            "hoi_annotation": [
                {"subject_id": 0, "object_id": 1, "category_id": ids[verb]},
                {"subject_id": 0, "object_id": -1, "category_id": ids["walk"]},
            ],
        }
        for number, (verb, object_id) in enumerate(pairs)
    ]
    path.write_text(json.dumps(entries))
    return path


def names(dataset):
    vocabulary = dataset.vocabulary
    return [
        (vocabulary.verbs[verb], vocabulary.object_ids[record.labels[object_]])
        for record in dataset.load("train", look_for_images=False)
        for _, object_, verb in record.pairs
    ]


@pytest.mark.parametrize("source", ["vcoco-ppdm", "vcoco-qpic"])
def test_each_order_of_vcoco_by_its_own_source(tmp_path, source):
    file = write(tmp_path / "trainval.json", source, PAIRS)
    dataset = convert(source, tmp_path / "out", train=file)
    assert names(dataset) == PAIRS
    assert dataset.vocabulary.verb_ids[dataset.vocabulary.verbs.index("hold_obj")] == 25


@pytest.mark.parametrize(
    ("source", "other"), [("vcoco-ppdm", "vcoco-qpic"), ("vcoco-qpic", "vcoco-ppdm")]
)
def test_the_other_order_is_refused_and_named(tmp_path, source, other):
    file = write(tmp_path / "trainval.json", other, PAIRS)
    with pytest.raises(UserError, match=f"cannot be by the ids of {source}.*numbering of {other}"):
        convert(source, tmp_path / "out", train=file)
    good = write(tmp_path / "good.json", source, PAIRS)
    bad = write(tmp_path / "test.json", other, PAIRS)
    with pytest.raises(UserError, match=r"test.json: \d of 3 pairs"):
        convert(source, tmp_path / "out", train=good, test=bad)


def test_doubt_is_refused(tmp_path):
    """15 is throw_obj in one order, catch_obj in the other; both go with a ball."""
    assert [vcoco_numbering(s).verbs[15] for s in ("vcoco-ppdm", "vcoco-qpic")] == [
        "throw_obj",
        "catch_obj",
    ]
    file = write(tmp_path / "trainval.json", "vcoco-ppdm", [("throw_obj", BALL)])
    with pytest.raises(UserError, match="each of vcoco-ppdm, vcoco-qpic; expected pairs that only"):
        convert("vcoco-ppdm", tmp_path / "out", train=file)


def test_the_orders_name_the_same_verbs():
    assert sorted(read_table("vcoco")["verbs"]) == sorted(read_table("vcoco")["verbs_qpic"])


def test_no_published_pair_is_called_impossible(shared, tmp_path):
    values = json.loads((shared / "vcoco_instances_val.json").read_text())
    coco = read_table("coco")
    ids = dict(zip(coco["names"], coco["ids"], strict=True))
    pairs = [
        (values["classes"][verb].replace(" ", "_"), ids[values["objects"][object_]])
        for row in values["annotations"]
        for verb, object_ in zip(row["actions"], row["objects"], strict=True)
    ]
    file = write(tmp_path / "trainval.json", "vcoco-qpic", pairs)
    assert names(convert("vcoco-qpic", tmp_path / "out", train=file)) == pairs
    with pytest.raises(UserError, match="numbering of vcoco-qpic") as error:
        convert("vcoco-ppdm", tmp_path / "out", train=file)
    assert int(str(error.value).split(": ")[1].split()[0]) > 0.5 * len(pairs)


def test_hico_ids_counted_from_zero(tmp_path):
    """75 is repair counted from 0, and release counted from 1: nobody does that to a bicycle."""
    entry = {
        "file_name": "HICO_train2015_00000001.jpg",
        "annotations": [
            {"bbox": [1, 2, 30, 40], "category_id": 1},
            {"bbox": [20, 30, 50, 60], "category_id": 2},
        ],
        "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 75}],
    }
    (tmp_path / "trainval.json").write_text(json.dumps([entry]))
    with pytest.raises(UserError, match="1 of 1 pairs cannot be by the ids of hico-ppdm.*bicycle"):
        convert("hico-ppdm", tmp_path / "out", train=tmp_path / "trainval.json")

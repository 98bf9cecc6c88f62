"""The category tables against each other and against the published files."""

import itertools
import json
from collections import Counter

from ggnet.data.tables import (
    hico_rare,
    hico_vocabulary,
    read_table,
    vcoco_actions,
    vcoco_vocabulary,
)


def test_every_table_names_its_source():
    for name in ("coco", "hico", "vcoco"):
        assert (
            "github.com" in read_table(name)["source"]
            or "cocodataset" in read_table(name)["source"]
        )


def test_hico_numbers():
    vocabulary = hico_vocabulary()
    assert (len(vocabulary.objects), len(vocabulary.verbs), len(vocabulary.hois)) == (80, 117, 600)
    assert vocabulary.objects[0] == "person"
    assert vocabulary.object_ids[-1] == 90
    assert list(vocabulary.verbs) == sorted(vocabulary.verbs)
    assert vocabulary.verbs[57] == "no_interaction"  # id 58
    per_object = Counter(object_ for _, object_ in vocabulary.hois)
    assert len(per_object) == 80
    assert (min(per_object.values()), max(per_object.values())) == (3, 18)
    assert all(vocabulary.hoi_index(57, object_) >= 0 for object_ in range(80))
    assert hico_rare().sum() == 138


def test_hico_order_is_the_official_one():
    """HOI classes grouped by object; some by number, from the official list."""
    vocabulary = hico_vocabulary()
    groups = [key for key, _ in itertools.groupby(object_ for _, object_ in vocabulary.hois)]
    assert len(groups) == 80
    by_coco_id = {0: (5, 5), 9: (5, 58), 160: (1, 9), 168: (1, 49), 302: (47, 28), 599: (24, 58)}
    for hoi, (object_id, verb_id) in by_coco_id.items():
        verb, object_ = vocabulary.hois[hoi]
        assert (vocabulary.object_ids[object_], vocabulary.verb_ids[verb]) == (object_id, verb_id)


def test_hico_against_the_annotation_file(shared):
    values = json.loads((shared / "hicodet_instances_test2015.json").read_text())
    vocabulary = hico_vocabulary()
    assert list(vocabulary.verbs) == values["verbs"]
    alphabetical = [name.replace("_", " ") for name in values["objects"]]
    assert sorted(vocabulary.objects) == sorted(alphabetical)
    expected = [
        (verb, vocabulary.objects.index(alphabetical[object_]))
        for _, object_, verb in values["correspondence"]
    ]
    assert list(vocabulary.hois) == expected
    assert hico_rare().nonzero()[0].tolist() == values["rare"]


def test_vcoco_numbers():
    actions = vcoco_actions()
    assert len(actions) == 26
    assert sum(len(action.roles) for action in actions) == 25
    vocabulary = vcoco_vocabulary()
    assert len(vocabulary.verbs) == 25
    ids = dict(zip(vocabulary.verbs, vocabulary.verb_ids, strict=True))
    assert (ids["surf_instr"], ids["point_instr"], ids["catch_obj"]) == (0, 23, 28)
    assert not {3, 17, 22, 27} & set(vocabulary.verb_ids)  # walk, smile, run, stand
    assert len(vcoco_vocabulary([(0, 37), (0, 37)]).hois) == 1


def test_vcoco_against_the_annotation_files(shared):
    official = json.loads((shared / "vcoco_official_val.json").read_text())
    assert [(a.name, ["agent", *a.roles]) for a in vcoco_actions()] == [
        (row["action_name"], row["role_name"]) for row in official
    ]
    values = json.loads((shared / "vcoco_instances_val.json").read_text())
    assert list(vcoco_vocabulary().objects) == values["objects"][1:]
    names = {name.replace(" ", "_") for name in values["classes"]}
    assert set(vcoco_vocabulary().verbs) - names == {"point_instr"}

"""Published annotation formats, by the name that `ggnet data convert` knows them by.

A source reads one file into `Content`; `ggnet.data.convert` does the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ggnet.data.annotations import ImageRecord, read_records
from ggnet.data.formats import coco_relations, cvat, hico, label_studio, vcoco
from ggnet.data.formats.entry import Entry
from ggnet.data.numberings import check_numbering
from ggnet.data.problems import Problems
from ggnet.data.tables import (
    hico_rare,
    hico_vocabulary,
    vcoco_numbering,
    vcoco_possible,
    vcoco_vocabulary,
)
from ggnet.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Request:
    """One annotation file to read, and what a reader may need beside it."""

    path: Path
    split: str  # "train", "val" or "test"
    vocabulary: Vocabulary | None  # None: the file's own names
    problems: Problems  # collects what is left out
    images: Path  # folder
    person: str = "person"  # the label of people, where the file has names of its own
    labels: str | Path | None = None  # HICO-DET's anno.mat
    coco: Sequence[str | Path] = ()  # COCO's instances files


@dataclass
class Content:
    """What a file says."""

    entries: list[Entry]  # one an image
    roles: list[dict[str, Any]] | None = None  # for V-COCO's metric, see `vcoco.read_official_file`
    object_ids: dict[str, int] | None = None  # of the file's own names


@dataclass(frozen=True)
class Source:
    """A format: how to read it, and the names that its ids mean."""

    read: Callable[[Request], Content]
    help: str  # its files
    vocabulary: Callable[[], Vocabulary] | None = None  # None: entries have names instead of ids
    rare: Callable[[], np.ndarray] | None = None  # (HOIs,) bool, where a list is published
    repeats_boxes: bool = False  # once for each verb of a pair
    pairs_from_train: bool = False  # only the training file says which verb goes with which object


def _hico_records(request: Request) -> Content:
    """PPDM's files, whose form is ours; their boxes are inclusive and counted from 1."""
    records = read_records(request.path, None, request.vocabulary, request.problems)
    possible = {"hico-ppdm": request.vocabulary.valid_pairs}
    check_numbering(request.path, records, request.vocabulary, "hico-ppdm", possible)
    return Content([_entry(record, request.vocabulary, shift=1.0) for record in records])


def _vcoco_records(request: Request, source: str) -> Content:
    """PPDM's or QPIC's files: edges, and each its own order of the verbs."""
    verbs = vcoco_numbering(source)
    records = read_records(request.path, None, verbs, request.problems)
    possible = {
        name: vcoco_possible(vcoco_numbering(name).verbs) for name in ("vcoco-ppdm", "vcoco-qpic")
    }
    check_numbering(request.path, records, verbs, source, possible)
    for record in records:
        known = np.isin(np.array(verbs.verbs)[record.pairs[:, 2]], request.vocabulary.verbs)
        for _, _, verb in record.pairs[~known].tolist():
            where = f"image {record.file_name}"
            request.problems.add("verb without a role", request.path, where, verbs.verbs[verb])
        record.pairs = record.pairs[known]
        mine = [request.vocabulary.verbs.index(verbs.verbs[v]) for v in record.pairs[:, 2]]
        record.pairs[:, 2] = mine
    return Content([_entry(record, request.vocabulary, shift=0.0) for record in records])


def _entry(record: ImageRecord, vocabulary: Vocabulary, shift: float) -> Entry:
    entry = Entry(record.file_name, record.image_id)
    indices = []
    for box, label in zip(record.boxes.tolist(), record.labels.tolist(), strict=True):
        edges = [box[0] - shift, box[1] - shift, box[2], box[3]]
        indices.append(entry.box(edges, vocabulary.object_ids[label]))
    for human, object_, verb in record.pairs.tolist():
        entry.pair(indices[human], indices[object_], vocabulary.verb_ids[verb])
    return entry


def _coco_relations(request: Request) -> Content:
    entries, ids = coco_relations.read_file(
        request.path, request.images, request.person, request.problems
    )
    return Content(entries, object_ids=ids)


# HICO-DET's boxes are inclusive pixels counted from 1, [x1, x2]; as edges they are [x1 - 1, x2].
_hico = partial(Source, vocabulary=hico_vocabulary, rare=hico_rare, repeats_boxes=True)
_vcoco = partial(Source, vocabulary=vcoco_vocabulary, pairs_from_train=True)

SOURCES: dict[str, Source] = {
    "hico-json": _hico(
        lambda r: Content(hico.read_json_file(r.path, r.vocabulary)),
        "instances_train2015.json and instances_test2015.json of fredzzhang/hicodet",
    ),
    "hico-mat": _hico(
        lambda r: Content(hico.read_mat_file(r.path, r.split, r.labels, r.vocabulary)),
        "the official anno_bbox.mat for both splits; --labels anno.mat for image-level labels",
    ),
    "hico-ppdm": _hico(
        _hico_records,
        "trainval_hico.json and test_hico.json of PPDM, QPIC and others",
    ),
    "vcoco-json": _vcoco(
        lambda r: Content(vcoco.read_json_file(r.path, r.vocabulary)),
        "instances_vcoco_trainval.json and instances_vcoco_test.json of fredzzhang/vcoco",
    ),
    "vcoco-official": _vcoco(
        lambda r: Content(*vcoco.read_official_file(r.path, r.coco, r.vocabulary, r.problems)),
        "vcoco_trainval.json and vcoco_test.json; --coco instances_*2014.json of COCO",
    ),
    "vcoco-ppdm": _vcoco(
        partial(_vcoco_records, source="vcoco-ppdm"),
        "train_vcoco.json and test_vcoco.json of PPDM and others",
    ),
    "vcoco-qpic": _vcoco(
        partial(_vcoco_records, source="vcoco-qpic"),
        "trainval_vcoco.json and test_vcoco.json of QPIC, CDN, GEN-VLKT and HOICLIP",
    ),
    "label-studio": Source(
        lambda r: Content(label_studio.read_file(r.path, r.images, r.person, r.problems)),
        "one's own: the JSON export of Label Studio (not JSON-MIN), boxes and relations",
    ),
    "cvat": Source(
        lambda r: Content(cvat.read_file(r.path, r.images, r.person, r.problems)),
        "one's own: annotations.xml of CVAT for images 1.1, boxes in groups with a verb",
    ),
    "coco-relations": Source(_coco_relations, "one's own: COCO's JSON with a list of relations"),
}

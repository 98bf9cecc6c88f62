"""Every kind of file that a user may give: a good one, how it is broken, and what a reader owes."""

import csv
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import published
import tool_exports
import torch
import yaml
from damage import mutate, mutate_bytes, mutate_json, odd_value
from PIL import Image
from rich.console import Console
from samples import save_untrained

from ggnet.config import DemoConfig, describe, load_config
from ggnet.data.annotations import Dataset, ImageRecord, load_dataset
from ggnet.data.convert import convert
from ggnet.data.dataset import HOIDataset, collate
from ggnet.data.images import image_size, read_image
from ggnet.data.problems import Problems
from ggnet.data.scenes import generate
from ggnet.data.tables import hico_vocabulary, vcoco_actions
from ggnet.data.tools import dataset_statistics, verify_dataset
from ggnet.data.unseen import read_unseen, training_records
from ggnet.data.vocabulary import Vocabulary
from ggnet.engine.checkpoint import BEST, LAST, open_checkpoint
from ggnet.engine.distributed import join_workers
from ggnet.engine.importing import import_file, load_initial_weights
from ggnet.engine.inference import Predictor
from ggnet.engine.logging import ResultsLog
from ggnet.engine.runs import resume_run
from ggnet.engine.trainer import Trainer, train
from ggnet.eval import foreign, vcoco
from ggnet.eval.detection import read_detections
from ggnet.eval.hico_mat import read_hico_mat, write_hico_mat
from ggnet.eval.predictions import ImagePrediction, write_predictions
from ggnet.eval.score import score_file
from ggnet.models import build_model
from ggnet.viz.curves import read_results as read_curves

SETTINGS = ["model.width=16", "model.points_per_step=9", "data.input_size=[32,32]"]
SETTINGS += ["data.workers=0", "train.device=cpu"]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        make: writes a good one, and what it needs beside it, into a folder; its path.
        read: as a user's command would; it asserts what every result must satisfy.
        mutate: bytes of the good file to those of a broken one.
        child: the program reads it in a child process; here it is read in the test's own, which may
            crash or meet the limit of memory.
        cost: of how many files of other formats one takes the time; so many fewer are read.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    mutate: Callable[[bytes, Random], bytes] = mutate_json
    child: bool = False
    cost: int = 1


# -- invariants -----------------------------------------------------------------------------------


def check_records(records: list[ImageRecord], vocabulary: Vocabulary) -> None:
    """What training and metrics take for granted."""
    assert len({record.image_id for record in records}) == len(records)
    for record in records:
        count = len(record.boxes)
        assert record.boxes.shape == (count, 4)
        assert record.boxes.dtype == np.float64
        assert np.isfinite(record.boxes).all()
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()
        assert record.labels.shape == (count,)
        assert ((record.labels >= 0) & (record.labels < len(vocabulary.objects))).all()
        assert record.pairs.shape[1:] == (3,)
        assert (
            (record.pairs >= 0) & (record.pairs < [[count, count, len(vocabulary.verbs)]])
        ).all()
        assert (record.labels[record.pairs[:, 0]] == 0).all()
        assert len(np.unique(record.pairs, axis=0)) == len(record.pairs)


def check_dataset(dataset: Dataset, look_for_images: bool = False) -> None:
    """Every split, or that nothing of it is usable."""
    assert all(isinstance(name, str) for name in dataset.vocabulary.objects)
    for split in dataset.splits:
        problems = Problems()
        records = dataset.load(split, problems, look_for_images=look_for_images)
        str(problems), problems.lines(3)
        check_records(records, dataset.vocabulary)
        dataset_statistics(records, dataset.vocabulary)


def check_prediction(prediction: ImagePrediction, vocabulary: Vocabulary) -> None:
    assert isinstance(prediction.image_id, str)
    for values in (prediction.human_boxes, prediction.object_boxes, prediction.scores):
        assert np.isfinite(values).all()
    assert ((prediction.object_labels >= 0) & (prediction.verbs >= 0)).all()
    assert (prediction.object_labels < len(vocabulary.objects)).all()
    assert (prediction.verbs < len(vocabulary.verbs)).all()


def check_report(report: Any) -> None:
    """Figures that are percentages, and JSON without NaN."""
    json.dumps(report.to_dict(), allow_nan=False)
    for value in report.result.headline().values():
        assert 0 <= value <= 100 + 1e-9
    report.tables()


# -- datasets -------------------------------------------------------------------------------------


def make_scenes(folder: Path) -> Path:
    generate(folder / "scenes", train=4, test=3, workers=1, size=64)
    return folder / "scenes"


def make_dataset(folder: Path) -> Path:
    return make_scenes(folder) / "dataset.json"


def make_annotations(folder: Path) -> Path:
    path = make_scenes(folder) / "train.json"
    entries = json.loads(path.read_text())
    entries[0]["known_objects"] = [entries[0]["annotations"][0]["category_id"]]
    path.write_text(json.dumps(entries))
    return path


def read_dataset(path: Path) -> None:
    dataset = load_dataset(path.parent)
    verify_dataset(path.parent, workers=1)
    check_dataset(dataset)
    records = training_records(dataset)
    config = load_config(None, SETTINGS)
    samples = HOIDataset(records, dataset.vocabulary, config, train=True, problems=Problems())
    batch = collate([samples[index] for index in range(len(samples))])
    assert torch.isfinite(batch.images).all()
    assert (batch.interactions >= 0).all()
    assert torch.isfinite(batch.human_offsets).all()
    assert torch.isfinite(batch.sizes).all()


def make_unseen(folder: Path) -> Path:
    dataset = load_dataset(make_scenes(folder))
    names = [dataset.vocabulary.verbs[dataset.vocabulary.hois[0][0]]]
    names.append(dataset.vocabulary.objects[dataset.vocabulary.hois[0][1]])
    path = folder / "unseen.json"
    path.write_text(json.dumps([1, 2, names]))
    return path


def read_unseen_file(path: Path) -> None:
    vocabulary = load_dataset(path.parent / "scenes").vocabulary
    unseen = read_unseen(str(path), vocabulary)
    assert unseen.hois.shape == (len(vocabulary.hois),)
    assert 0 < unseen.hois.sum() < len(unseen.hois)


# -- other people's annotations -------------------------------------------------------------------


def source(name: str, content: bytes | str, file: str = "train.json", **more: Any) -> Format:
    """A JSON format of `ggnet data convert`."""

    def make(folder: Path) -> Path:
        path = folder / file
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for other, text in more.get("beside", {}).items():
            (folder / other).write_text(text)
        return path

    def read(path: Path) -> None:
        coco = [path.parent / other for other in more.get("beside", {})]
        out = path.parent / "out"
        check_dataset(convert(name, out, train=path, coco=coco, problems=Problems()))

    return Format(make, read, more.get("mutate", mutate_json))


ROWS = [
    {
        "file_name": f"HICO_train2015_0000000{number}.jpg",
        "annotations": [
            {"bbox": [1, 1, 20, 30], "category_id": 1},
            {"bbox": [11, 11, 40, 40], "category_id": "2\n"},
        ],
        "hoi_annotation": [{"subject_id": 0, "object_id": 1, "category_id": 77}],
    }
    for number in range(3)
]
VCOCO_ROWS = json.loads(json.dumps(ROWS).replace("HICO_train2015_0", "COCO_train2014_0000"))
HICO = {
    "objects": ["bicycle"],
    "verbs": ["ride"],
    "filenames": ["a.jpg", "b.jpg"],
    "annotation": [
        {"boxes_h": [[1, 1, 20, 30]], "boxes_o": [[11, 11, 40, 40]], "object": [0], "verb": [0]}
    ]
    * 2,
}
VCOCO = {
    "objects": ["background", "surfboard"],
    "classes": ["surf instr"],
    "annotations": [
        {"boxes_h": [[1, 1, 20, 30]], "boxes_o": [[11, 11, 40, 40]], "objects": [1], "actions": [0]}
        | {"file_name": "COCO_train2014_000000000007.jpg"}
    ],
}
OFFICIAL = [
    {
        "action_name": action.name,
        "role_name": ["agent", *action.roles],
        "image_id": [7, 7],
        "ann_id": [100, 200],
        "label": [int(action.name in ("hold", "stand")), 0],
        "role_object_id": [100, 200] + [300 if action.name == "hold" else 0, 0] * len(action.roles),
    }
    for action in vcoco_actions()
]
COCO = {
    "images": [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg", "width": 99, "height": 99}],
    "annotations": [
        {"id": id_, "image_id": 7, "category_id": category, "bbox": box, "area": 100.0}
        for id_, category, box in (
            (100, 1, [0, 0, 20, 40]),
            (200, 1, [50, 0, 20, 40]),
            (300, 47, [20, 20, 10, 10]),
        )
    ],
}


def official_instances() -> Format:
    """COCO's file beside V-COCO's good one."""

    def make(folder: Path) -> Path:
        (folder / "vcoco.json").write_text(json.dumps(OFFICIAL))
        path = folder / "instances.json"
        path.write_text(json.dumps(COCO))
        return path

    def read(path: Path) -> None:
        files = {"train": path.parent / "vcoco.json", "coco": [path]}
        check_dataset(convert("vcoco-official", path.parent / "out", **files, problems=Problems()))

    return Format(make, read)


def tool(name: str) -> Format:
    file, export = tool_exports.TOOLS[name]

    def make(folder: Path) -> Path:
        path = folder / file
        path.write_text(export(tool_exports.photos(folder / "photos", 3)))
        return path

    def read(path: Path) -> None:
        more = {"train_images": path.parent / "photos", "problems": Problems()}
        check_dataset(convert(name, path.parent / "out", train=path, **more), True)

    return Format(make, read, mutate_bytes if name == "cvat" else mutate_json)


def mat_bytes(values: Any) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, values)
    return file.getvalue()


BOX = {"x1": 1.0, "x2": 20.0, "y1": 1.0, "y2": 30.0}
MAT = {
    "filename": "a.jpg",
    "hoi": {"id": 1, "bboxhuman": BOX, "bboxobject": BOX, "connection": [[1, 1]], "invis": 0},
}


def mutate_mat(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(content, rng)
    try:
        return mat_bytes({"bbox_train": mutate(MAT, rng)})
    except Exception:  # SciPy cannot write that
        return mutate_bytes(content, rng)


def make_mat(folder: Path) -> Path:
    path = folder / "anno_bbox.mat"
    path.write_bytes(mat_bytes({"bbox_train": MAT}))
    return path


def read_mat(path: Path) -> None:
    check_dataset(convert("hico-mat", path.parent / "out", train=path, problems=Problems()))


# -- predictions ----------------------------------------------------------------------------------


def some_predictions(dataset: Dataset) -> list[ImagePrediction]:
    return [
        ImagePrediction(
            record.image_id,
            record.file_name,
            record.boxes[record.pairs[:, 0]],
            record.boxes[record.pairs[:, 1]],
            record.labels[record.pairs[:, 1]],
            record.pairs[:, 2],
            np.linspace(0.9, 0.1, len(record.pairs)),
        )
        for record in dataset.load("test", look_for_images=False)
    ]


def make_predictions(folder: Path) -> Path:
    dataset = load_dataset(make_scenes(folder))
    path = folder / "predictions.json"
    write_predictions(path, some_predictions(dataset), dataset.vocabulary)
    return path


def make_ppdm(folder: Path) -> Path:
    dataset = load_dataset(make_scenes(folder))
    path = folder / "predictions.json"
    foreign.write_ppdm(path, some_predictions(dataset), dataset.vocabulary)
    return path


def score_predictions(path: Path) -> None:
    dataset = load_dataset(path.parent / "scenes")
    report = score_file(path, dataset, "test", load_config(None).eval)
    for prediction in report.predictions:
        check_prediction(prediction, dataset.vocabulary)
    check_report(report)


def make_detections(folder: Path) -> Path:
    dataset = load_dataset(make_scenes(folder))
    ids = dataset.vocabulary.object_ids
    rows = [
        {"image_id": record.image_id, "category_id": ids[label], "score": 0.5}
        | {"bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]}
        for record in dataset.load("test", look_for_images=False)
        for box, label in zip(record.boxes, record.labels, strict=True)
    ]
    path = folder / "detections.json"
    path.write_text(json.dumps(rows))
    return path


def read_boxes(path: Path) -> None:
    dataset = load_dataset(path.parent / "scenes")
    found = read_detections(path, dataset.load("test"), dataset.vocabulary)
    for image in found.values():
        assert np.isfinite(image.boxes).all()
        assert ((image.scores > 0) & (image.scores <= 1)).all()
        assert ((image.labels >= 0) & (image.labels < len(dataset.vocabulary.objects))).all()


def make_official(folder: Path) -> Path:
    """V-COCO as converted, with roles."""
    (folder / "vcoco.json").write_text(json.dumps(OFFICIAL))
    (folder / "instances.json").write_text(json.dumps(COCO))
    files = dict.fromkeys(("train", "test"), folder / "vcoco.json")
    convert("vcoco-official", folder / "vcoco", **files, coco=[folder / "instances.json"])
    return folder / "vcoco" / "test_roles.json"


def read_roles(path: Path) -> None:
    truth = vcoco.read_roles(path)
    boxes = np.array([[0.0, 0, 20, 40]])
    found = [
        vcoco.RolePredictions(image, boxes, ["hold_obj"], boxes, np.array([0.5])) for image in truth
    ]
    json.dumps(vcoco.evaluate(found, truth).to_dict(), allow_nan=False)


PERSON = {
    "image_id": 7,
    "person_box": [0.0, 0.0, 19.0, 39.0],
    "hold_obj": [20.0, 20.0, 29.0, 29.0, 0.5],
    "hold_agent": 0.5,
    "kick_obj": np.arange(5.0),
}


def make_pickle(folder: Path) -> Path:
    make_official(folder)
    path = folder / "detections.pkl"
    path.write_bytes(pickle.dumps([PERSON, PERSON]))
    return path


def score_pickle(path: Path) -> None:
    dataset = load_dataset(path.parent / "vcoco")
    check_report(score_file(path, dataset, "test", load_config(None).eval))


def mutate_pickle(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(content, rng)
    return pickle.dumps(mutate([PERSON, PERSON], rng), protocol=rng.randrange(6))


def mutate_hico_mat(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.7:
        return mutate_bytes(content, rng)
    cells = np.empty((600, 3), dtype=object)
    value = odd_value(rng)
    for place in np.ndindex(cells.shape):
        cells[place] = value if rng.random() < 0.01 else None
    try:
        return mat_bytes({"all_boxes": cells})
    except Exception:  # SciPy cannot write that
        return mutate_bytes(content, rng)


def hico_records() -> list[ImageRecord]:
    return [
        ImageRecord(
            f"{n}.jpg", str(n), Path(), np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 3))
        )
        for n in range(3)
    ]


def make_hico_mat(folder: Path) -> Path:
    boxes = np.array([[0.0, 0, 9, 9]])
    found = [
        ImagePrediction("1", "1.jpg", boxes, boxes, np.array([4]), np.array([4]), np.array([0.5]))
    ]
    write_hico_mat(folder / "detections.mat", found, hico_records(), hico_vocabulary())
    return folder / "detections.mat"


def read_hico_detections(path: Path) -> None:
    for prediction in read_hico_mat(path, hico_records(), hico_vocabulary()):
        check_prediction(prediction, hico_vocabulary())


# -- configurations, checkpoints, run folders, images ---------------------------------------------


def make_yaml(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(describe(load_config("demo", schema=DemoConfig)))
    return path


def mutate_yaml(content: bytes, rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.7:
        return yaml.safe_dump(mutate(yaml.safe_load(content), rng), allow_unicode=True).encode(
            errors="surrogatepass"
        )
    if kind < 0.75:
        return rng.choice(
            (b"[" * 5000, b"a: &a [1]\nb: *a\n", b"? [1, 2]\n: 3\n", b"!!python/x {}")
        )
    return mutate_bytes(content, rng)


def read_yaml(path: Path) -> None:
    config = load_config(path, schema=DemoConfig)
    (path.parent / "again.yaml").write_text(describe(config))
    assert load_config(path.parent / "again.yaml", schema=DemoConfig) == config


def make_checkpoint(folder: Path) -> Path:
    save_untrained(folder, load_config(None, SETTINGS))
    return folder / BEST


def mutate_torch(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    state = torch.load(io.BytesIO(content), weights_only=True)
    if rng.random() < 0.3:  # a tensor of another shape, type or kind
        weights = state.get("model") or state["state_dict"]
        name = rng.choice(list(weights))
        weights[name] = rng.choice(
            (
                weights[name].half(),
                weights[name][None],
                torch.full_like(weights[name].float(), float("nan")),
                weights[name].to_sparse(),
                torch.zeros(3, dtype=torch.complex64),
                torch.zeros(2, dtype=torch.int64),
                odd_value(rng),
            )
        )
    else:
        state = mutate(state, rng)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def read_checkpoint(path: Path) -> None:
    predictor = Predictor.of(open_checkpoint(path), "cpu")
    image = np.zeros((40, 30, 3), np.uint8)
    for prediction in predictor(*predictor.prepare([image])):
        check_prediction(prediction, predictor.vocabulary)


def make_run(folder: Path) -> Path:
    """The checkpoint of a training of one epoch."""
    more = [f"data.root={make_scenes(folder)}", "train.epochs=1", "train.batch_size=2"]
    config = load_config(None, [*SETTINGS, *more, "train.ema=0.9", "train.loggers=[]"])
    train(config, folder / "run", console=Console(quiet=True))
    return folder / "run" / LAST


def resume(path: Path) -> None:
    run, config, state = resume_run(path.parent, None, ["train.epochs=2"])
    with join_workers("cpu") as worker:
        trainer = Trainer(config, run, worker, Console(quiet=True))
        trainer.restore(state)
    assert 0 <= trainer.position.epoch < 2
    assert 0 <= trainer.position.step <= trainer.steps_per_epoch
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def start_from(path: Path) -> None:
    config = load_config(None, SETTINGS)
    vocabulary = Vocabulary("v", ("person", "ball"), (1, 2), ("hold",), (1,), ((0, 1),))
    network = build_model(config.model, 2, 1)
    load_initial_weights(network, str(path), config.model, vocabulary)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def make_published(folder: Path) -> Path:
    """Of the published shapes, each tensor a single number that is repeated: a small file."""
    weights = {
        f"module.{name}": torch.ones(()).expand(shape)
        for name, shape in published.dla({"hm": 80, "wh": 2, "reg": 2}).items()
    }
    torch.save({"state_dict": weights, "epoch": 3}, folder / "model.pth")
    return folder / "model.pth"


def import_published(path: Path) -> None:
    import_file(path, path.parent / "out.pt")


def make_results(folder: Path) -> Path:
    path = folder / "results.csv"
    rows = [{"epoch": n, "step": 4 * n, "lr": 0.1, "total": 3.5, "mAP": 10.0} for n in (1, 2, 3)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def mutate_csv(content: bytes, rng: Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(content, rng)
    cells = mutate([line.split(",") for line in content.decode().splitlines()], rng)
    rows = cells if isinstance(cells, list) else [cells]
    lines = (",".join(map(str, row if isinstance(row, list) else [row])) for row in rows)
    return "\n".join(lines).encode(errors="surrogatepass")


def read_results(path: Path) -> None:
    log = ResultsLog(path, 2)
    log.path = path.parent / "again.csv"
    log.add({"epoch": 3, "total": 1.0})
    columns = read_curves(path)
    assert {"epoch", "lr"} <= columns.keys()
    assert len({values.shape for values in columns.values()}) == 1


def picture(kind: str, mode: str = "RGB") -> Format:
    def make(folder: Path) -> Path:
        pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
        path = folder / f"picture.{kind}"
        Image.fromarray(pixels).convert(mode).save(path)
        return path

    def read(path: Path) -> None:
        image = read_image(path)
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert min(image.shape) > 0
        assert image.flags.c_contiguous
        assert image.flags.writeable
        width, height = image_size(path)
        assert (height, width) == image.shape[:2]

    return Format(make, read, mutate_bytes)


FORMATS = {
    "dataset": Format(make_dataset, read_dataset),
    "annotations": Format(make_annotations, read_dataset),
    "unseen": Format(make_unseen, read_unseen_file),
    "hico-json": source("hico-json", json.dumps(HICO)),
    "hico-mat": Format(make_mat, read_mat, mutate_mat, child=True),
    "hico-ppdm": source("hico-ppdm", json.dumps(ROWS)),
    "vcoco-json": source("vcoco-json", json.dumps(VCOCO)),
    "vcoco-official": source(
        "vcoco-official", json.dumps(OFFICIAL), beside={"instances.json": json.dumps(COCO)}
    ),
    "coco-instances": official_instances(),
    "vcoco-ppdm": source("vcoco-ppdm", json.dumps(VCOCO_ROWS)),
    "vcoco-qpic": source("vcoco-qpic", json.dumps(VCOCO_ROWS)),
    **{name: tool(name) for name in tool_exports.TOOLS},
    "predictions": Format(make_predictions, score_predictions),
    "ppdm-predictions": Format(make_ppdm, score_predictions),
    "detections": Format(make_detections, read_boxes),
    "vcoco-roles": Format(make_official, read_roles),
    "vcoco-pickle": Format(make_pickle, lambda path: score_pickle(path), mutate_pickle, child=True),
    "hico-mat-predictions": Format(
        make_hico_mat, read_hico_detections, mutate_hico_mat, child=True
    ),
    "config": Format(make_yaml, read_yaml, mutate_yaml),
    "checkpoint": Format(make_checkpoint, read_checkpoint, mutate_torch, cost=4),
    "run": Format(make_run, resume, mutate_torch, cost=4),
    "initial weights": Format(make_checkpoint, start_from, mutate_torch, cost=4),
    "published weights": Format(make_published, import_published, mutate_torch, cost=4),
    "results.csv": Format(make_results, read_results, mutate_csv),
    "png": picture("png"),
    "palette": picture("png", "P"),
    "jpg": picture("jpg"),
    "webp": picture("webp"),
    "gif": picture("gif", "P"),
    "tiff": picture("tiff", "CMYK"),
    "bmp": picture("bmp"),
}

"""`ggnet report`, `ggnet data browse`: what is in the page, and what a mistake is answered with."""

import base64
import fnmatch
import json
import re
import shutil
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import ggnet.report.write as write
from ggnet.cli import main
from ggnet.config import load_config
from ggnet.data.annotations import load_dataset
from ggnet.data.images import read_image
from ggnet.engine.checkpoint import BEST, open_checkpoint, save_checkpoint
from ggnet.engine.inference import Predictor
from ggnet.errors import UserError
from ggnet.eval.errors import CAUSES
from ggnet.eval.report import METRICS
from ggnet.report.contents import of_report
from ggnet.report.make import browse, report_file
from ggnet.report.write import Page

ROOT = Path(__file__).parents[2]


class Read(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.title, self.inside = [], {}, "", None
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.close()
        self.values = json.loads(self.scripts["data"])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("script", "title"):
            self.inside = tag, dict(attributes).get("id", "code")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside and self.inside[0] == "script":
            assert self.inside[1] not in self.scripts, "two scripts of one name"
            self.scripts[self.inside[1]] = data
        elif self.inside:
            self.title += data


@pytest.fixture
def ggnet(capsys):
    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def unpacked(image, key, width):
    return np.array(image.get(key, [])).reshape(-1, width)


def test_counts_are_those_of_the_metrics(awkward):
    values = of_report(awkward.report, "x")
    metrics = awkward.report.to_dict()
    assert {kind["name"]: kind["count"] for kind in values["kinds"]} == metrics["errors"]
    found = np.concatenate([unpacked(image, "found", 8) for image in values["images"]])
    assert len(found) == sum(map(len, awkward.report.predictions))
    assert (found[:, 4] == -1).sum() == metrics["invalid_predictions"]
    for number, cause in enumerate(CAUSES):
        assert ((found[:, 4] == number) & (found[:, 5] == 1)).sum() == metrics["errors"][cause]
    truth = np.concatenate([unpacked(image, "truth", 4) for image in values["images"]])
    classes = metrics["classes"]
    assert len(truth) == sum(row["ground_truth"] for row in classes)
    reached = [row["ground_truth"] * (row["max_recall"] or 0) / 100 for row in classes]
    assert values["missed"] == len(truth) - round(sum(reached))
    shown = found[(found[:, 3] >= values["threshold"]) & (found[:, 4] >= 0)]
    correct = (shown[:, 4] == 0).sum()
    best = metrics["best_f1"]
    assert correct / len(shown) == pytest.approx(best["precision"], abs=1e-12)
    assert correct / len(truth) == pytest.approx(best["recall"], abs=1e-12)
    rows = {row[0]: row for row in values["classes"]["rows"]}
    for row in classes:
        name = f"{row['verb']} {row['object']}"
        assert rows[name][1] == pytest.approx(row["ap_default"], abs=0.005)
        assert rows[name][4:6] == [row["ground_truth"], row["detections"]]


def test_triplets_and_pairs_are_those_of_the_files(awkward):
    values = of_report(awkward.report, "x")
    by_id = {prediction.image_id: prediction for prediction in awkward.report.predictions}
    for image, record in zip(values["images"], awkward.report.records, strict=True):
        boxes = unpacked(image, "boxes", 5)
        truth = unpacked(image, "truth", 4).astype(int)
        for side in (0, 1):
            there = boxes[truth[:, side]] if len(truth) else np.zeros((0, 5))
            expected = record.boxes[record.pairs[:, side]]
            np.testing.assert_allclose(there[:, :4], expected, atol=0.051)
        prediction = by_id[record.image_id]
        order = np.argsort(-prediction.scores, kind="stable")
        found = unpacked(image, "found", 8).astype(int)
        np.testing.assert_array_equal(found[:, 2], prediction.verbs[order])
        np.testing.assert_allclose(found[:, 3] * 1e-8, prediction.scores[order], atol=6e-9)
        if len(found):
            human, object_ = boxes[found[:, 0]], boxes[found[:, 1]]
            np.testing.assert_allclose(human[:, :4], prediction.human_boxes[order], atol=0.051)
            np.testing.assert_allclose(object_[:, :4], prediction.object_boxes[order], atol=0.051)
            np.testing.assert_array_equal(object_[:, 4], prediction.object_labels[order])
            assert (human[:, 4] == 0).all()
        for _, _, verb, _, cause, _, pair, _ in found.tolist():
            if cause == 0:
                assert truth[pair, 2] == verb


@pytest.mark.parametrize("embed", [False, True])
def test_names_are_text_wherever_they_stand(awkward, tmp_path, embed):
    page = tmp_path / "<i>page & 'co'.html"
    config = load_config(None, [f"data.root={awkward.root}"])
    report_file(awkward.predictions, config, None, Page(page, embed=embed))
    read = Read(page)
    pictures = {f"picture-{number}" for number in range(30)} if embed else set()
    assert set(read.scripts) == {"data", "code", "gaze"} | pictures
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "h1", "p", "nav", "a"}
    allowed |= {"button", "main", "section", "h2", "div", "input", "span", "dialog", "noscript"}
    assert {tag for tag, _ in read.tags} <= allowed | {"script"}
    assert read.title == str(awkward.predictions)
    values = read.values
    assert values["verbs"] == list(awkward.dataset.vocabulary.verbs)
    assert values["objects"] == list(awkward.dataset.vocabulary.objects)
    assert [image["name"] for image in values["images"]] == [
        record.file_name for record in awkward.report.records
    ]
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == len(read.scripts)
    addresses = set(re.findall(r"https?://[^\"' ]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r'\b(src|href)="[^#]', text)


@pytest.mark.parametrize("embed", [False, True])
def test_pictures_are_beside_the_page_or_in_it(awkward, tmp_path, embed):
    page = Page(tmp_path / "page.html", embed=embed, side=400)
    browse(awkward.root, "test", page)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == (["page.html"] if embed else ["page.html", "page_files"])
    images = Read(page.path).values["images"]
    for number, (image, record) in enumerate(zip(images, awkward.report.records, strict=True)):
        original = read_image(awkward.root / "images" / record.file_name)
        assert original.shape[:2] == (image["height"], image["width"])
        if not embed:
            picture = read_image(page.folder / f"{number:06d}.jpg")
            assert max(picture.shape) == min(400, max(original.shape))
            small = page.folder / f"{number:06d}-small.jpg"
            assert small.exists() == image["small"] == (max(picture.shape) > 320)
            if small.exists():
                assert max(read_image(small).shape) == 320
    browse(awkward.root, "test", Page(page.path, embed=not embed))
    names = sorted(path.name for path in tmp_path.iterdir())  # nothing of the old page is left
    assert names == (["page.html", "page_files"] if embed else ["page.html"])


def test_actpoints_are_where_the_network_looked(evaluated, scenes, ggnet):
    status, output, error = ggnet("report", evaluated)
    assert (status, error) == (0, "")
    assert str(evaluated / "report.html") in output
    read = Read(evaluated / "report.html")
    values, texts = read.values, json.loads(read.scripts["gaze"])
    assert values["gaze"] == {"steps": 2, "points": 9}
    predictor = Predictor.from_checkpoint(evaluated, "cpu")
    kept = 0
    for number, record in enumerate(load_dataset(scenes).load("test")):
        image = values["images"][number]
        [(prediction, gaze)] = predictor.look(*predictor.prepare([read_image(record.path)]))
        found = unpacked(image, "found", 8)
        boxes, points = unpacked(image, "boxes", 5), unpacked(image, "points", 2)
        data = np.frombuffer(base64.b64decode(texts[number]), np.uint8)
        split = len(points) * 2 * 9 * 4
        xy = data[:split].view("<i2").reshape(len(points), 2, 9, 2) * (128 / 8192)
        weights = data[split:].reshape(len(points), 2, 9) / 255
        assert (found[:10, 7] >= 0).all()
        for human, object_, verb, score, _, _, _, point in found:
            if point < 0:
                continue
            kept += 1
            away = [
                max(
                    np.abs(prediction.human_boxes[i] - boxes[human, :4]).max(),
                    np.abs(prediction.object_boxes[i] - boxes[object_, :4]).max(),
                    100 * (prediction.verbs[i] != verb),
                    1e4 * abs(prediction.scores[i] - score * 1e-8),
                )
                for i in range(len(prediction))
            ]
            i = int(np.argmin(away))
            assert away[i] < 0.1
            np.testing.assert_allclose(points[point], gaze.points[i], atol=0.06)
            np.testing.assert_allclose(xy[point], gaze.actpoints[:, i], atol=0.02)
            np.testing.assert_allclose(weights[point], gaze.weights[:, i], atol=0.003)
    assert kept >= 50


def test_a_run_can_be_shown_without_its_network_running(evaluated, tmp_path, ggnet):
    page = tmp_path / "new" / "page.html"
    assert ggnet("report", evaluated, "--no-actpoints", "--embed", "--out", page)[0] == 0
    read = Read(page)
    assert "gaze" not in read.values
    assert read.scripts["gaze"] == "null"
    metrics = json.loads((evaluated / METRICS).read_text())
    assert {kind["name"]: kind["count"] for kind in read.values["kinds"]} == metrics["errors"]
    figures = {figure["name"]: figure["value"] for figure in read.values["headline"]}
    assert figures["mAP"] == pytest.approx(metrics["mean_ap"]["default"]["full"], abs=0.005)
    assert figures["boxes' AP50"] == pytest.approx(metrics["object_detection"]["AP50"], abs=0.005)


def test_curves_of_the_training(copy, ggnet):
    results = copy / "results.csv"
    results.write_text("epoch,lr,total,mAP,seconds\n1,0.1,9.5,,3\n2,0.1,4.25,30.5,3\n")
    assert ggnet("report", copy, "--no-actpoints")[0] == 0
    plots = {plot["title"]: plot for plot in Read(copy / "report.html").values["plots"]}
    [losses] = plots["Training losses"]["lines"]
    assert (losses["name"], losses["x"], losses["y"]) == ("total", [1, 2], [9.5, 4.25])
    [means] = plots["Average precision"]["lines"]
    assert (means["name"], means["y"]) == ("mAP", [None, 30.5])
    results.write_text("epoch,lr\n1,fast\n")
    assert "not a table of numbers" in refused(ggnet, copy, "report", copy)


def test_browsing_a_dataset(scenes, tmp_path, ggnet):
    status, output, _ = ggnet("data", "browse", scenes, "--out", tmp_path / "b.html")
    assert status == 0
    assert "b.html, with its pictures in b_files beside it" in output
    values = Read(tmp_path / "b.html").values
    records = load_dataset(scenes).load("train")
    assert len(values["images"]) == len(records) == 16
    assert values["kinds"] == []
    assert not any("found" in image for image in values["images"])
    figures = {figure["name"]: figure["value"] for figure in values["headline"]}
    assert figures["pairs"] == sum(len(record.pairs) for record in records)
    assert figures["boxes"] == sum(len(record.boxes) for record in records)
    assert sum(row[1] for row in values["classes"]["rows"]) == figures["pairs"]


def test_vcoco(vcoco, tmp_path):
    """Roles in place of HOIs, and an image without any prediction."""
    path = tmp_path / "none.json"
    header = {"format": "ggnet predictions", "version": 1, "images": []}
    path.write_text(json.dumps(header))
    config = load_config(None, [f"data.root={vcoco.root}"])
    values = Read(report_file(path, config, None, Page(tmp_path / "v.html"))).values
    assert values["headline"][0]["name"] == "role AP, scenario 1"
    assert len(values["classes"]["rows"]) == 25
    assert values["missed"] == 1


@pytest.fixture
def copy(evaluated, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(evaluated, folder, ignore=shutil.ignore_patterns("report*"))
    return folder


def refused(ggnet, folder, *arguments):
    """What a command says that fails; it leaves nothing in the folder."""
    before = sorted(folder.rglob("*"))
    status, output, error = ggnet(*arguments)
    assert (status, output) == (2, "")
    assert error.startswith("error: ")
    assert sorted(folder.rglob("*")) == before
    return error


@pytest.mark.parametrize("name", ["predictions.json", METRICS])
def test_a_run_that_was_not_evaluated(copy, ggnet, name):
    (copy / name).unlink()
    assert f"has no {name}: it was not evaluated" in refused(ggnet, copy, "report", copy)
    assert f"`ggnet eval {copy}`" in refused(ggnet, copy, "report", copy)


def test_a_run_that_is_none(tmp_path, ggnet):
    assert "no run folder or checkpoint" in refused(ggnet, tmp_path, "report", tmp_path / "no")
    assert "give either an evaluated run" in refused(ggnet, tmp_path, "report")


def test_files_that_do_not_belong_together(copy, awkward, ggnet, tmp_path):
    other = refused(ggnet, copy, "report", copy, f"data.root={awkward.root}")
    assert "has other objects than" in other
    metrics = json.loads((copy / METRICS).read_text())
    metrics["errors"]["background"] += 1
    (copy / METRICS).write_text(json.dumps(metrics))
    assert "errors differs" in refused(ggnet, copy, "report", copy)
    metrics["errors"]["background"] -= 1
    metrics["object_detection"] = {"AP": "high"}
    (copy / METRICS).write_text(json.dumps(metrics))
    assert "metrics.json cannot be read" in refused(ggnet, copy, "report", copy)
    (copy / METRICS).write_text("[]")
    assert "does not say which split" in refused(ggnet, copy, "report", copy)
    arguments = ("--predictions", copy / "predictions.json", f"data.root={awkward.root}")
    out = tmp_path / "page.html"
    assert "of the vocabulary" in refused(ggnet, tmp_path, "report", *arguments, "--out", out)


def test_predictions_of_no_checkpoint_come_without_actpoints(copy, ggnet, caplog):
    state = open_checkpoint(copy).state
    for value in state["model"].values():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape) * 0.1)
    save_checkpoint(copy / BEST, state)
    assert ggnet("report", copy)[0] == 0
    assert "no ActPoints in the report" in caplog.text
    assert "gaze" not in Read(copy / "report.html").values


def test_a_place_that_cannot_be_written(awkward, copy, tmp_path, ggnet):
    for out, says in (
        (tmp_path / "page.txt", "expected a name that ends in .html"),
        (tmp_path, "expected a name that ends in .html"),
        (copy / METRICS / "page.html", "Choose a folder that you may write to"),
        (Path("/proc/none/page.html"), "Choose a folder that you may write to"),
    ):
        assert says in refused(ggnet, tmp_path, "report", copy, "--out", out)
        assert says in refused(ggnet, tmp_path, "data", "browse", awkward.root, "--out", out)
    (tmp_path / "page_files").touch()
    error = refused(ggnet, tmp_path, "report", copy, "--out", tmp_path / "page.html")
    assert "page_files is where the page's pictures go, and it cannot be read" in error
    (tmp_path / "page_files").unlink()
    (tmp_path / "page_files").mkdir()
    (tmp_path / "page_files" / "mine.jpg").touch()
    error = refused(ggnet, tmp_path, "report", copy, "--out", tmp_path / "page.html")
    assert "holds other files, such as mine.jpg" in error


def test_what_fails_half_way_leaves_the_old_page(awkward, tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    browse(awkward.root, "test", Page(page))

    def state():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = state()

    def full_disk(*_arguments):
        raise OSError(28, "No space left on device")

    for name in ("write_bytes", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, full_disk)
            with pytest.raises(UserError, match="No space left on device"):
                browse(awkward.root, "test", Page(page))
        assert state() == before
    with monkeypatch.context() as patch:
        patch.setattr(write, "atomic_write", full_disk)  # when the pictures are there already
        with pytest.raises(UserError, match="No space left on device"):
            browse(awkward.root, "test", Page(page, side=64))
    assert state() == before


def test_images_that_cannot_be_read(awkward, tmp_path, caplog):
    root = tmp_path / "data"
    shutil.copytree(awkward.root, root)
    names = [record.file_name for record in awkward.report.records]
    (root / "images" / names[5]).write_bytes(b"no image")
    (root / "images" / names[7]).unlink()
    browse(root, "test", Page(tmp_path / "page.html"))
    assert "2 of 30 images are not in the page" in caplog.text
    images = Read(tmp_path / "page.html").values["images"]
    assert [number for number, image in enumerate(images) if not image["width"]] == [5, 7]
    for name in names:
        (root / "images" / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match="none of the 30 images can be read; the first: .*no such"):
        browse(root, "test", Page(tmp_path / "other.html"))
    assert not (tmp_path / "other.html").exists()


def test_the_files_of_the_page_are_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = settings["tool"]["setuptools"]["package-data"]["ggnet"]
    files = [path for path in (ROOT / "ggnet/report/page").iterdir() if path.is_file()]
    assert len(files) == len(write.SCRIPTS) + 2
    for path in files:
        name = str(path.relative_to(ROOT / "ggnet"))
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name

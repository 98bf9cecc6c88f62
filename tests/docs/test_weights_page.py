"""docs/weights.md: its table is `ggnet import --list`'s, and each of its commands runs."""

import json

import numpy as np
import published
import pytest
import torch
from pages import ROOT, Shell, commands
from PIL import Image

from ggnet.cli import main
from ggnet.data.tables import hico_vocabulary
from ggnet.models.importers import PUBLISHED
from ggnet.models.releases import RELEASES

PAGE = "docs/weights.md"
# What makes training and evaluation small; the commands are otherwise as printed.
SMALL = "data.input_size=[64,64] data.workers=0 train.batch_size=1 train.epochs=1 train.device=cpu"
DETECTION = {"hm": 80, "wh": 2, "reg": 2}


def row(release):
    size = "" if release.megabytes is None else f"{release.megabytes:.0f}"
    backbone = f"`{release.backbone}`" if release.backbone else ""
    link = f"[{release.file or 'folder'}]({release.url})"
    cells = (release.title, release.trained_on, release.figure, size, backbone, release.use, link)
    return f"| {' | '.join(cells)} |"


def test_the_table_is_that_of_the_command(capsys):
    rows = [line for line in (ROOT / PAGE).read_text().splitlines() if line.endswith(") |")]
    assert rows == [row(release) for release in RELEASES]
    assert main(["import", "--list"]) == 0
    printed = capsys.readouterr().out
    for release in RELEASES:
        for text in (release.title, release.trained_on, release.figure, release.file, release.url):
            assert text in printed


def test_networks_of_the_table_are_those_that_are_read():
    titles = {source.title: source for source in PUBLISHED}
    for release in RELEASES:
        if release.network is not None:
            source = titles[release.network]
            assert release.use == ("train.init" if source.covers else "predict, eval, train.init")
    known = {release.network for release in RELEASES}
    unpublished = {f"PPDM, ResNet-{depth}" for depth in (34, 50, 101, 152)}
    unpublished |= {f"CenterNet detection, ResNet-{depth}" for depth in (34, 50, 152)}
    assert titles.keys() - known == unpublished


@pytest.mark.parametrize(
    ("network", "parameters"),  # of the published code, as its modules were counted
    [("GGNet, hourglass-104, one gaze step", 200.7e6), ("PPDM, hourglass-104", 194.9e6)],
)
def test_sizes_are_those_of_the_published_networks(network, parameters):
    [size] = [r.megabytes for r in RELEASES if r.network == network]
    assert size == pytest.approx(4e-6 * parameters, rel=2e-3)  # and BatchNorms' statistics


def test_import_without_a_file_says_what_it_needs(capsys):
    assert main(["import"]) == 2
    assert "ggnet import FILE OUT" in capsys.readouterr().err
    assert main(["import", "a.pth"]) == 2
    assert "ggnet import FILE OUT" in capsys.readouterr().err


def hico(folder, count):
    """Photos of somebody who rides a bicycle, in the published code's format."""
    rng = np.random.default_rng(0)
    vocabulary = hico_vocabulary()
    ride, bicycle = vocabulary.verbs.index("ride"), vocabulary.objects.index("bicycle")
    rows = []
    (folder / "photos").mkdir(parents=True)
    for number in range(count):
        name = f"HICO_{number:08}.jpg"
        pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / name)
        boxes = [([10, 10, 60, 80], 1), ([20, 40, 90, 90], vocabulary.object_ids[bicycle])]
        relation = {"subject_id": 0, "object_id": 1, "category_id": vocabulary.verb_ids[ride]}
        rows.append(
            {
                "file_name": name,
                "img_id": number,
                "annotations": [{"bbox": box, "category_id": id_} for box, id_ in boxes],
                "hoi_annotation": [relation | {"hoi_category_id": 1}],
            }
        )
    (folder / "some.json").write_text(json.dumps(rows))


@pytest.mark.slow
def test_commands_in_order(tmp_path):
    folder = tmp_path / "clone"
    hico(folder, 2)
    Image.open(next((folder / "photos").iterdir())).save(folder / "photo.jpg")
    for name, heads in (
        ("hoidet_hico_dla", DETECTION | {"hm_rel": 117, "sub_offset": 2, "obj_offset": 2}),
        ("ctdet_coco_dla_2x", DETECTION),
    ):
        weights = published.fill(published.dla(heads), dtype=torch.float32)
        torch.save({"epoch": 1, "state_dict": weights}, folder / f"{name}.pth")
    shell = Shell(folder)
    some = "--train some.json --train-images photos --test some.json --test-images photos"
    shell.run(f"ggnet data convert hico-ppdm data/hico {some}")
    lines = commands(PAGE)
    assert len(lines) == 6
    for line in lines:
        small = " train " in line or " eval " in line
        shell.run(f"{line} {SMALL}" if small else line)
    assert (folder / "runs/predict/photo.png").exists()
    assert (folder / "runs/hico_dla34-2/best.pt").exists()

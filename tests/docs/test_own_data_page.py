"""docs/own-data.md, from photos to a model: each of its commands, as printed, in its order."""

import json
import re

import published
import pytest
import tool_exports
import torch
from pages import ROOT, Shell, blocks

from ggnet.data.annotations import load_dataset
from ggnet.eval.report import METRICS

PAGE = "docs/own-data.md"


@pytest.mark.slow
def test_every_command_of_the_page(tmp_path):
    images = tool_exports.photos(tmp_path / "photos", 12)
    for name, export in tool_exports.TOOLS.values():
        (tmp_path / name).write_text(export(images))
    detector = published.resnet_dcn(18, {"hm": 80, "wh": 2, "reg": 2})
    weights = published.fill(detector, dtype=torch.float32)
    torch.save({"state_dict": weights}, tmp_path / "ctdet_coco_resdcn18.pth")
    shell = Shell(tmp_path)
    commands = blocks(PAGE, "bash")
    assert sum(block.count("ggnet ") for block in commands) == 11
    for block in commands:
        shell.run(block)

    for name in ("mine", "from-cvat", "from-coco"):
        dataset = load_dataset(tmp_path / "data" / name)
        assert [len(dataset.load(split)) for split in ("train", "val", "test")] == [8, 2, 2]
    metrics = json.loads((tmp_path / "runs" / "try" / METRICS).read_text())
    assert metrics["split"] == "val"  # the last evaluation
    assert len(list((tmp_path / "found").glob("**/photo*"))) >= 12


def test_the_pages_unseen_list_is_one():
    (listed,) = re.findall(r"such as `(\[\[.*?\]\])`", (ROOT / PAGE).read_text())
    assert all(len(pair) == 2 for pair in json.loads(listed))

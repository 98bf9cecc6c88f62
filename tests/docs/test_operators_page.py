"""docs/operators.md: its snippets run, and say what the page says."""

import pytest
import torch
from pages import ROOT, blocks


def test_snippets():
    first, _, resolving = blocks("docs/operators.md", "python")
    names: dict = {}
    exec(first, names)  # noqa: S102
    assert names["gazed"].shape == (1, 256, 128, 128)
    code = [line.removeprefix(">>> ") for line in resolving.splitlines() if line.startswith(">>>")]
    assert code[-1].startswith("print(")
    assert code[-1].endswith(")")
    exec("\n".join(code[:-1]), names)  # noqa: S102
    said = str(eval(code[-1].removeprefix("print"), names))  # noqa: S307
    printed = [line for line in resolving.splitlines() if not line.startswith(">>>")]
    assert said.splitlines()[:2] == printed[:2]  # the third is about triton, if that is installed
    assert len(said.splitlines()) == len(printed)
    assert torch.is_tensor(names["features"])


def test_replacing_torchvision():
    vision = pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    layer = vision.ops.DeformConv2d(4, 6, 3)
    offset = torch.randn(2, 18, 7, 8, dtype=torch.bfloat16)  # which only ggnet takes on a CPU
    names = {
        "model": lambda images: layer.bfloat16()(images, offset),
        "images": torch.randn(2, 4, 9, 10, dtype=torch.bfloat16),
    }
    exec(blocks("docs/operators.md", "python")[1], names)  # noqa: S102
    assert names["output"].shape == (2, 6, 7, 8)
    with pytest.raises(RuntimeError, match="not implemented for 'BFloat16'"):
        names["model"](names["images"])


def test_layers_of_the_table():
    from ggnet import nn

    text = (ROOT / "docs/operators.md").read_text(encoding="utf-8")
    table = text.partition("| theirs |")[2].partition("\n\n")[0]
    rows = [line.split("|")[2] for line in table.splitlines()[2:]]
    found = [row.strip().split("`")[1] for row in rows]
    assert sorted(found) == sorted(name for name in nn.__all__ if "DeformConv2d" in name)

"""docs/operators.md: its snippets run, and say what the page says."""

import torch
from pages import blocks


def test_snippets():
    first, resolving = blocks("docs/operators.md", "python")
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

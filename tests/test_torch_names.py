"""torch's private names that this package uses are where it looks for them.

They may move with any release. Where one has, this says which, and who uses it.
"""

import ast
import importlib
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from ggnet.ops._traced import constant_when_traced

ROOT = Path(__file__).parents[1]
# Methods of torch's that a class here replaces: torch has to call them.
OVERRIDDEN = {"torch.utils.data.DataLoader._get_iterator": "data/dataset.py"}


def private_names() -> dict[str, str]:
    """Dotted name -> the file that uses it."""
    found = {name: "ggnet/" + path for name, path in OVERRIDDEN.items()}
    for path in sorted([*(ROOT / "ggnet").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imported = {"torch": "torch"}  # local name -> what it is
        for node in nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
                for alias in node.names:
                    imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.asname and alias.name.split(".")[0] == "torch":
                        imported[alias.asname] = alias.name
        used = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
        for root, _, rest in (name.partition(".") for name in [*imported, *used]):
            parts = [*imported.get(root, "").split("."), *filter(None, rest.split("."))]
            private = any(p.startswith("_") and not p.startswith("__") for p in parts)
            if parts[0] == "torch" and private and all(p.isidentifier() for p in parts):
                found[".".join(parts)] = str(path.relative_to(ROOT))
    return found


NAMES = private_names()


def test_they_are_found():
    assert {
        "torch._foreach_lerp_",
        "torch._C._functorch.TransformType",
        "torch.autograd.forward_ad._current_level",
    } <= NAMES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_private_name_is_still_there(name):
    module, *rest = name.split(".")
    value = importlib.import_module(module)
    for index, part in enumerate(rest):
        if not hasattr(value, part):
            try:  # a module that nothing has imported yet
                importlib.import_module(".".join([module, *rest[: index + 1]]))
            except ImportError:
                pytest.fail(f"this torch has no {name}, which {NAMES[name]} uses")
        value = getattr(value, part)


def test_the_loader_asks_for_its_iterator_where_it_is_replaced():
    class Loader(DataLoader):
        def _get_iterator(self):
            return iter(["ours"])

    assert list(Loader([1, 2])) == ["ours"]


def test_dynamo_finds_what_is_marked_as_constant():
    marked = constant_when_traced(lambda: 1)
    assert vars(torch.compiler.assume_constant_result(lambda: 1)) == vars(marked)

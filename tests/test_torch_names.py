"""torch's private names that this package uses are where it looks for them.

They may move with any release. Where one has, this says which, and who uses it.
"""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def private_names() -> dict[str, str]:
    """Dotted name -> the file that uses it."""
    found = {}
    for path in sorted([*(ROOT / "ggnet").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            else:
                continue
            for name in names:
                parts = name.split(".")
                private = any(p.startswith("_") and not p.startswith("__") for p in parts)
                if parts[0] == "torch" and private and all(p.isidentifier() for p in parts):
                    found[name] = str(path.relative_to(ROOT))
    return found


NAMES = private_names()


def test_they_are_found():
    assert {"torch._foreach_lerp_", "torch._C._functorch.TransformType"} <= NAMES.keys()


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

"""GGNet (Glance and Gaze, CVPR 2021): human-object interaction detection on fast open operators.

    import ggnet

    model = ggnet.load("runs/demo")
    for triplet in model("photo.jpg")[0]:
        print(triplet.score, triplet.verb, triplet.object.name)

docs/python.md describes what is exported here. Importing this package imports no torch; the first
use of a name does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ggnet import ops
    from ggnet.api.model import Model, load
    from ggnet.api.result import Instance, Result, Triplet
    from ggnet.errors import UserError

__version__ = "0.1.0"
__all__ = ["Instance", "Model", "Result", "Triplet", "UserError", "load", "ops"]

_HOMES = {
    "Instance": "ggnet.api.result",
    "Model": "ggnet.api.model",
    "Result": "ggnet.api.result",
    "Triplet": "ggnet.api.result",
    "UserError": "ggnet.errors",
    "load": "ggnet.api.model",
}


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("ggnet.ops")
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module 'ggnet' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Loads the compiled library, or says why it cannot be loaded and what to do."""

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from ggnet import __version__
from ggnet._build import BUILD_INFO, LIBRARY, MIN_TORCH, ROOT, new_enough

FOLDER = Path(__file__).resolve().parent.parent
SCHEMAS = (
    "actpoint_aggregate",
    "actpoint_aggregate_backward",
    "deform_conv2d",
    "deform_conv2d_backward",
    "hna_loss",
    "hna_loss_backward",
    "draw_heatmaps",
    "topk_peaks",
    "match_points",
)


def load(folder: Path = FOLDER) -> None:
    """Load the library in `folder` and its operators into torch.

    Raises:
        ImportError: torch is too old; the library is missing, of another version or does not load.
    """
    if not new_enough(torch.__version__):
        raise ImportError(explain("this torch is too old", folder))
    path = folder / LIBRARY
    if not path.exists():
        raise ImportError(explain(f"{path} does not exist: it was not compiled", folder))
    built = build_info(folder)
    if built.get("version") != __version__:
        problem = f"{path} belongs to ggnet {built.get('version')}, the Python files to"
        raise ImportError(explain(f"{problem} {__version__}", folder))
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(explain(str(error), folder)) from error
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.ggnet, name)]
    if missing:
        problem = f"{path} is older than the Python files: it lacks {', '.join(missing)}"
        raise ImportError(explain(problem, folder))


def build_info(folder: Path = FOLDER) -> dict[str, Any]:
    """What the library was built for; empty where the record is missing or unreadable."""
    try:
        return json.loads((folder / BUILD_INFO).read_text())
    except (OSError, ValueError):
        return {}


def found() -> dict[str, str]:
    """This process, in the terms of `build_info`."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "none",
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
    }


def explain(problem: str, folder: Path) -> str:
    here, built = found(), build_info(folder)
    minimum = ".".join(map(str, MIN_TORCH))
    expected = (
        f"built against torch {built['torch']}, CUDA {built['cuda'] or 'none'}, "
        f"Python {built['python']}, {built['platform']}"
        if {"torch", "cuda", "python", "platform"} <= built.keys()
        else "no record of a build"
    )
    return (
        f"ggnet's compiled operators cannot be used: {problem}.\n"
        f"  found:    torch {here['torch']}, CUDA {here['cuda']}, Python {here['python']}, "
        f"{here['platform']}\n"
        f"  expected: torch {minimum} or newer; library: {expected}\n"
        f"  repair:   {repair_command()}"
    )


def repair_command() -> str:
    """Compiles the library for this interpreter."""
    pip = f"{sys.executable} -m pip install --no-build-isolation --no-deps --force-reinstall"
    if (ROOT / "setup.py").exists():
        return f"{pip} -e {ROOT}"
    return f"{pip} . (in a checkout of ggnet)"

"""Loads the compiled library, or says why it cannot be loaded and what to do."""

import itertools
import platform
import sys
from pathlib import Path

import torch

from ggnet import __version__
from ggnet._build import LIBRARY, MIN_TORCH, ROOT, new_enough, read_build_info
from ggnet.ops._operators import QUERIES, SCHEMAS

FOLDER = Path(__file__).resolve().parent.parent


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
    version = read_build_info(folder).get("version", "an unknown version")
    if version != __version__:
        problem = f"{path} was built for ggnet {version}, these Python files are {__version__}"
        raise ImportError(explain(problem, folder))
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(explain(str(error), folder)) from error
    expected = [*itertools.chain(*SCHEMAS.values()), *QUERIES]
    missing = [name for name in expected if not hasattr(torch.ops.ggnet, name)]
    if missing:
        problem = f"{path} is older than the Python files: it lacks {', '.join(missing)}"
        raise ImportError(explain(problem, folder))


def explain(problem: str, folder: Path) -> str:
    """The problem, what was found and expected, and the command that repairs it."""
    found = _describe(
        torch.__version__,
        torch.version.cuda,
        platform.python_version(),
        f"{sys.platform}-{platform.machine()}",
    )
    built = read_build_info(folder)
    record = (
        _describe(built["torch"], built["cuda"], built["python"], built["platform"])
        if built
        else "nothing recorded"
    )
    return (
        f"ggnet's compiled operators cannot be used: {problem}.\n"
        f"  found:    {found}\n"
        f"  expected: torch {'.'.join(map(str, MIN_TORCH))} or newer; built against {record}\n"
        f"  repair:   {repair_command()}"
    )


def _describe(torch_version: str, cuda: str | None, python: str, machine: str) -> str:
    return f"torch {torch_version}, CUDA {cuda or 'none'}, Python {python}, {machine}"


def repair_command() -> str:
    """Compiles the library for this interpreter."""
    pip = f"{sys.executable} -m pip install --no-build-isolation --no-deps --force-reinstall"
    if (ROOT / "setup.py").exists():
        return f"{pip} -e {ROOT}"
    return f"{pip} . (in a checkout of ggnet)"

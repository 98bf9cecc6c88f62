"""`ggnet env`: what is installed, compiled and usable, and why the rest is not."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import ggnet
from ggnet import cores
from ggnet._build import LIBRARY, MIN_TORCH, read_build_info

try:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
except (ImportError, OSError) as error:  # the report is wanted most where torch is broken
    torch, no_torch = None, error

FOLDER = Path(ggnet.__file__).parent
VARIABLES = (
    "GGNET_BACKEND",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "TORCH_CUDA_ARCH_LIST",
)
DEVICES = ("cpu", "cuda")
# The releases that tests have been run with, and no others; docs/install.md says which tests.
TESTED = {
    "Python": ("3.11", "3.13"),
    "torch": ("2.11", "2.13", "2.14", "2.15"),
    "triton": ("3.8", "3.9"),
}


def facts() -> dict[str, Any]:
    """Package versions, the machine, the GPUs, the compiled library and, for each operator and
    device, which backend runs it and why the others do not; in values that JSON has.

    `usable` says whether the operators can be used, `problem` why not.
    """
    problem, operators = None, {}
    try:
        if torch is None:
            minimum = ".".join(map(str, MIN_TORCH))
            raise ImportError(
                f"torch cannot be imported ({no_torch}); install torch {minimum} or newer (pip "
                "install torch), then compile the operators: pip install -e ."
            )
        from ggnet import ops

        operators = _operators(ops)
    except ImportError as error:
        problem = str(error)
    return {
        "usable": problem is None,
        "problem": problem,
        "ggnet": {"version": ggnet.__version__, "folder": str(FOLDER)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "machine": {
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "usable_cores": cores.usable_cores(),
        },
        "torch": None if torch is None else _torch(),
        "gpus": [] if torch is None else _gpus(),
        "compilers": {
            "c++": _compiler(shlex.split(os.environ.get("CXX", "c++"))[0]),
            "cuda": _compiler("nvcc"),
        },
        "library": _library(),
        "packages": _packages(),
        "untested": _untested(),
        "variables": {
            name: os.environ[name]
            for name in VARIABLES
            if name in os.environ and name not in cores.chosen
        },
        "operators": operators,
    }


def report(console: Console) -> bool:
    """Print the facts; whether the operators are usable."""
    found = facts()
    console.print(_table(found))
    if not found["usable"]:
        console.print(f"[red]not usable[/]: {escape(found['problem'])}", soft_wrap=True)
        return False
    table = Table(title="operators: backend, and why not the others", show_lines=True)
    for title in ("operator", *(f"on {device}" for device in DEVICES)):
        table.add_column(title, overflow="fold")
    for name, devices in found["operators"].items():
        table.add_row(name, *(_resolution(devices[device]) for device in DEVICES))
    console.print(table)
    return True


def _table(found: dict[str, Any]) -> Table:
    table = Table(title="environment", show_header=False)
    machine, torch_ = found["machine"], found["torch"]
    rows = {
        "ggnet": "{version} in {folder}".format_map(found["ggnet"]),
        "Python": "{version} ({executable})".format_map(found["python"]),
        "machine": f"{machine['system']}, {machine['processors']} processors, of which this "
        f"process may use {machine['usable_cores']}",
    }
    if torch_ is None:
        rows["torch"] = f"cannot be imported: {no_torch}"
    else:
        cards = "\n".join(
            "{name}, {architecture}, {gib:.0f} GiB".format_map(g) for g in found["gpus"]
        )
        none = "none found by torch" if torch_["cuda"] else "none usable: this torch has no CUDA"
        rows["CPU"] = (
            f"{torch_['cpu_capability']}, {torch_['threads']} threads used by torch, waiting "
            f"{'by its default' if torch_['wait_policy'] is None else torch_['wait_policy']}"
        )
        rows["torch"] = f"{torch_['version']}, CUDA {torch_['cuda'] or 'none'}"
        rows["GPUs"] = cards or none
    for title, name, what in (
        ("C++ compiler", "c++", "the operators"),
        ("CUDA compiler", "cuda", "CUDA kernels"),
    ):
        compiler = found["compilers"][name]
        rows[title] = (
            f"{compiler['path']}: {compiler['version'] or 'says no version'}"
            if compiler["path"]
            else f"{compiler['command']} is not on PATH: {what} cannot be compiled here"
        )
    built = found["library"]
    rows["compiled library"] = (
        f"{built['path']}, built against torch {built['torch']}, CUDA {built['cuda'] or 'none'}; "
        f"loads under torch {built['min_torch']} and newer"
        if built
        else f"{LIBRARY} is not built"
    )
    rows["packages"] = (
        "\n".join(
            f"{name} {version}" if version else f"{name}: missing; pip install {name}"
            for name, version in found["packages"].items()
        )
        or "unknown: ggnet is imported from a folder, not installed (pip install -e .)"
    )
    if found["untested"]:
        rows["not tested"] = "\n".join(
            f"{name} {version}; tests have been run with {', '.join(TESTED[name])}"
            for name, version in found["untested"].items()
        )
    variables = [f"{name}={value}" for name, value in found["variables"].items()]
    rows["variables"] = "\n".join(variables) or "none set"
    for name, text in rows.items():
        table.add_row(name, escape(text))
    return table


def _torch() -> dict[str, Any]:
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def _gpus() -> list[dict[str, Any]]:
    if torch.version.cuda is None or not torch.cuda.is_available():
        return []
    cards = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [
        {
            "name": card.name,
            "architecture": f"sm_{card.major}{card.minor}",
            "gib": card.total_memory / 2**30,
        }
        for card in cards
    ]


def _library() -> dict[str, Any] | None:
    built = read_build_info(FOLDER)
    return {"path": str(FOLDER / LIBRARY), **built} if built else None


def _compiler(command: str) -> dict[str, str | None]:
    """Where it is, and the line in which it says its version."""
    path, version = shutil.which(command), None
    if path is not None:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
        lines = (line for line in answer.splitlines() if re.search(r"\d+\.\d+", line))
        version = next(lines, None)
    return {"command": command, "path": path, "version": version}


def _packages() -> dict[str, str | None]:
    """The version of each package that ggnet needs, None where it is missing; empty where ggnet is
    imported from a folder."""
    try:
        requirements = requires("ggnet") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, str | None] = {}
    for requirement in requirements:
        if "extra ==" in requirement or requirement.startswith("torch"):
            continue
        name = requirement.partition(">")[0].strip()
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _untested() -> dict[str, str]:
    """What is installed in a release that is not in TESTED, and its version."""
    found = {"Python": platform.python_version()}
    if torch is not None:
        found["torch"] = str(torch.__version__)
    with suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    return {
        name: number
        for name, number in found.items()
        if ".".join(number.split(".")[:2]) not in TESTED[name]
    }


def _operators(ops) -> dict[str, dict[str, dict[str, Any]]]:
    """Operator, device -> backend, its kernels, reasons against the others."""
    with FakeTensorMode():  # a CUDA tensor exists even where no GPU does
        tensors = {
            device: torch.empty(1, dtype=torch.bfloat16, device=device) for device in DEVICES
        }
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in ops.OPERATORS:
        found[name] = {}
        for device, tensor in tensors.items():
            r = ops.resolve(name, tensor)
            found[name][device] = {
                "backend": r.backend,
                "kernels_in_bfloat16": r.kernels,
                "rejected": r.rejected,
            }
    return found


def _resolution(found: dict[str, Any]) -> str:
    backend, kernels = found["backend"], found["kernels_in_bfloat16"]
    lines = [f"[green]{backend}[/]" if backend else "[red]none[/]"]
    if kernels:
        lines.append(escape(f"in bfloat16: {kernels}"))
    lines += [escape(f"{name}: {why}") for name, why in found["rejected"].items()]
    return "\n".join(lines)

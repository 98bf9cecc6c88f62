"""`ggnet env`: what is installed, compiled and usable, and why the rest is not."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import ggnet
from ggnet._build import LIBRARY, MIN_TORCH, read_build_info

try:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
except (ImportError, OSError) as error:  # the report is wanted most where torch is broken
    torch, no_torch = None, error

FOLDER = Path(ggnet.__file__).parent
VARIABLES = ("GGNET_BACKEND", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TORCH_CUDA_ARCH_LIST")


def report(console: Console) -> bool:
    """Print the report; whether the operators are usable.

    Package versions, the machine, the GPUs, the compiled library and, for each operator and
    device, which backend runs it and why the others do not.
    """
    console.print(_facts())
    try:
        if torch is None:
            minimum = ".".join(map(str, MIN_TORCH))
            raise ImportError(
                f"torch cannot be imported ({no_torch}); install torch {minimum} or newer (pip "
                "install torch), then compile the operators: pip install -e ."
            )
        from ggnet import ops
    except ImportError as error:
        console.print(f"[red]not usable[/]: {escape(str(error))}", soft_wrap=True)
        return False
    console.print(_operators(ops))
    return True


def _facts() -> Table:
    table = Table(title="environment", show_header=False)
    table.add_row("ggnet", f"{ggnet.__version__} in {FOLDER}")
    table.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    table.add_row("machine", f"{platform.platform()}, {os.cpu_count()} processors")
    if torch is None:
        table.add_row("torch", f"cannot be imported: {escape(str(no_torch))}")
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        table.add_row("CPU", f"{capability}, {torch.get_num_threads()} threads used by torch")
        table.add_row("torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}")
        table.add_row("GPUs", _gpus())
    cxx = shlex.split(os.environ.get("CXX", "c++"))[0]
    table.add_row("C++ compiler", _compiler(cxx, "the operators cannot be compiled here"))
    table.add_row("CUDA compiler", _compiler("nvcc", "CUDA kernels cannot be compiled here"))
    table.add_row("compiled library", _library())
    table.add_row("packages", "\n".join(_packages()))
    settings = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    table.add_row("variables", "\n".join(settings) or "none set")
    return table


def _gpus() -> str:
    if torch.version.cuda is None:
        return "none usable: this torch is built without CUDA"
    if not torch.cuda.is_available():
        return "none found by torch"
    cards = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return "\n".join(
        f"{card.name}, sm_{card.major}{card.minor}, {card.total_memory / 2**30:.0f} GiB"
        for card in cards
    )


def _library() -> str:
    built = read_build_info(FOLDER)
    if not built:
        return f"{LIBRARY} is not built"
    return (
        f"{FOLDER / LIBRARY}, built against torch {built['torch']}, "
        f"CUDA {built['cuda'] or 'none'}; loads under torch {built['min_torch']} and newer"
    )


def _compiler(command: str, otherwise: str) -> str:
    """What this compiler says about its version, in one line."""
    path = shutil.which(command)
    if path is None:
        return f"{command} is not on PATH: {otherwise}"
    answer = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    versions = [line for line in answer.splitlines() if re.search(r"\d+\.\d+", line)]
    return f"{path}: {versions[0] if versions else 'says no version'}"


def _packages() -> list[str]:
    try:
        requirements = requires("ggnet") or []
    except PackageNotFoundError:
        return ["unknown: ggnet is imported from a folder, not installed (pip install -e .)"]
    lines = []
    for requirement in requirements:
        if "extra ==" in requirement or requirement.startswith("torch"):
            continue
        name = requirement.partition(">")[0].strip()
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name}: missing; pip install '{requirement}'")
    return lines


def _operators(ops) -> Table:
    devices = ("cpu", "cuda")
    with FakeTensorMode():  # a CUDA tensor exists even where no GPU does
        tensors = [torch.empty(1, dtype=torch.bfloat16, device=device) for device in devices]
    table = Table(title="operators: backend, and why not the others", show_lines=True)
    for title in ("operator", *(f"on {device}" for device in devices)):
        table.add_column(title, overflow="fold")
    for name in ops.OPERATORS:
        table.add_row(name, *(_resolution(ops.resolve(name, tensor)) for tensor in tensors))
    return table


def _resolution(resolution) -> str:
    lines = [f"[green]{resolution.backend}[/]" if resolution.backend else "[red]none[/]"]
    if resolution.kernels:
        lines.append(escape(f"in bfloat16: {resolution.kernels}"))
    lines += [escape(f"{name}: {why}") for name, why in resolution.rejected.items()]
    return "\n".join(lines)

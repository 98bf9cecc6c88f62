"""The compiled library's sources and flags: the one list that every way of building it reads."""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The oldest torch whose stable ABI the library asks for: it loads under this and every later one.
MIN_TORCH = (2, 11)
LIBRARY = "_C.abi3.so"
BUILD_INFO = "_build_info.json"
_FIELDS = {"version", "torch", "cuda", "python", "platform", "min_torch"}
BYTES_PER_JOB = 1 << 30  # what compiling one file takes at most, with room to spare


def new_enough(torch_version: str) -> bool:
    """Whether this torch has the stable ABI that the library uses."""
    return tuple(int(part) for part in torch_version.split(".")[:2]) >= MIN_TORCH


def sources() -> list[str]:
    """C++ files of the library, relative to the repository root."""
    paths = [ROOT / "csrc/library.cpp", *sorted(ROOT.glob("csrc/*/*_cpu.cpp"))]
    return [str(path.relative_to(ROOT)) for path in paths]


def headers() -> list[str]:
    """Headers that a change of makes the library stale."""
    return [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("csrc/*/*.h"))]


def include_dirs() -> list[str]:
    return [str(ROOT / "csrc")]


def cxx_flags() -> list[str]:
    """Compiler flags. No -march: kernels choose their instruction set at run time."""
    major, minor = MIN_TORCH
    return [
        "-std=c++20",
        "-O3",
        "-g0",
        f"-ffile-prefix-map={ROOT}/=",  # error messages name files as the repository does
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-fno-trapping-math",
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
        "-DTORCH_STABLE_ONLY",
    ]


def jobs(cpus: int, memory: int) -> int:
    """Compiler processes at once on `cpus` processors and `memory` bytes of free memory."""
    return max(1, min(cpus, memory // BYTES_PER_JOB))


def free_memory(meminfo: str = "/proc/meminfo", limit: str = "/sys/fs/cgroup/memory.max") -> int:
    """Bytes that programs can still take, within what the control group may have at all."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        fields = dict(line.split(":") for line in Path(meminfo).read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        free = total
    try:
        return min(free, int(Path(limit).read_text()))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return free


def write_build_info(folder: Path, version: str, torch_version: str, cuda: str | None) -> None:
    """Record beside the library what it was built for; read when it is loaded."""
    info = {
        "version": version,
        "torch": torch_version,
        "cuda": cuda,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "min_torch": ".".join(map(str, MIN_TORCH)),
    }
    (folder / BUILD_INFO).write_text(json.dumps(info, indent=2) + "\n")


def read_build_info(folder: Path) -> dict[str, Any]:
    """What the library in `folder` was built for; empty where there is no such record."""
    try:
        info = json.loads((folder / BUILD_INFO).read_text())
    except (OSError, ValueError):
        return {}
    return info if info.keys() >= _FIELDS else {}

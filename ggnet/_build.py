"""The compiled library's sources and flags: the one list that every way of building it reads."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# The oldest torch whose stable ABI the library asks for: it loads under this and every later one.
MIN_TORCH = (2, 11)
LIBRARY = "_C.abi3.so"
BUILD_INFO = "_build_info.json"
_FIELDS = {"version", "torch", "cuda", "python", "platform", "min_torch"}
BYTES_PER_JOB = 1 << 30  # what compiling one file takes at most, with room to spare
# What a library for any machine holds where TORCH_CUDA_ARCH_LIST is unset and no GPU is here to
# compile for; newer devices compile the last one's PTX when they load it. 9.0a: the Hopper kernels
# want its own instructions, and every device of 9.0 has them.
CUDA_ARCHITECTURES = ("8.0", "8.6", "8.9", "9.0a", "10.0", "12.0")


def new_enough(torch_version: str) -> bool:
    """Whether this torch has the stable ABI that the library uses."""
    return tuple(int(part) for part in torch_version.split(".")[:2]) >= MIN_TORCH


def sources(cuda: bool = False) -> list[str]:
    """Source files of the library, relative to the repository root."""
    paths = [ROOT / "csrc/library.cpp", *sorted(ROOT.glob("csrc/*/*_cpu.cpp"))]
    if cuda:
        paths += sorted(ROOT.glob("csrc/*/*_cuda.cu"))
    return [str(path.relative_to(ROOT)) for path in paths]


def headers() -> list[str]:
    """Headers that a change of makes the library stale."""
    paths = sorted([*ROOT.glob("csrc/*/*.h"), *ROOT.glob("csrc/*/*.cuh")])
    return [str(path.relative_to(ROOT)) for path in paths]


def include_dirs() -> list[str]:
    return [str(ROOT / "csrc")]


def _torch_macros() -> list[str]:
    major, minor = MIN_TORCH
    return [f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000", "-DTORCH_STABLE_ONLY"]


def cxx_flags() -> list[str]:
    """Compiler flags. No -march: kernels choose their instruction set at run time."""
    return [
        "-std=c++20",
        "-O3",
        "-g0",
        f"-ffile-prefix-map={ROOT}/=",  # error messages name files as the repository does
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-fno-trapping-math",
        *_torch_macros(),
    ]


def nvcc_flags() -> list[str]:
    """nvcc's flags, without the architectures: those are TORCH_CUDA_ARCH_LIST's."""
    return [
        "-std=c++20",
        "-O3",
        "-Xcompiler",
        "-fvisibility=hidden",
        "-DUSE_CUDA",
        *_torch_macros(),
    ]


def cuda_home() -> Path | None:
    """The CUDA toolkit that the nvcc of CUDA_HOME or PATH belongs to; None where there is none."""
    home = os.environ.get("CUDA_HOME")
    nvcc = str(Path(home, "bin/nvcc")) if home else shutil.which("nvcc")
    if nvcc is None or not os.access(nvcc, os.X_OK):
        return None
    # nvcc may be a wrapper or a link, so it is asked where its toolkit is.
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    answer = subprocess.run(command, capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.*)$", answer, re.MULTILINE)
    folder = Path(top[1].strip()).resolve() if top else Path(nvcc).resolve().parent.parent
    return folder if (folder / "include/cuda_runtime.h").exists() else None


def nvcc_version(home: Path) -> tuple[int, int]:
    """CUDA version of this toolkit's compiler."""
    answer = subprocess.run([home / "bin/nvcc", "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.(\d+)", answer)
    return (int(release[1]), int(release[2])) if release else (0, 0)


def cuda_architectures(home: Path) -> str:
    """TORCH_CUDA_ARCH_LIST of a library for any machine: those of ours that this nvcc knows."""
    command = [home / "bin/nvcc", "--list-gpu-code"]
    known = subprocess.run(command, capture_output=True, text=True).stdout.split()
    plain = {arch: arch.rstrip("a") for arch in CUDA_ARCHITECTURES}  # as nvcc lists them
    chosen = [arch for arch, name in plain.items() if f"sm_{name.replace('.', '')}" in known]
    if chosen and chosen[-1] != plain[chosen[-1]]:  # its PTX would run nowhere else
        chosen.append(plain[chosen[-1]])
    return ";".join(chosen) + "+PTX"


def architectures_of_devices(capabilities: Iterable[tuple[int, int]]) -> str:
    """TORCH_CUDA_ARCH_LIST of a library for GPUs of these compute capabilities."""
    names = {f"{major}.{minor}" for major, minor in capabilities}
    return ";".join(sorted("9.0a" if name == "9.0" else name for name in names))


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

"""Builds the emulator's Python module: the device kernels compiled for the CPU, in three variants.

plain: optimized; asan: with the address and undefined-behavior sanitizers (the process must have
libasan preloaded); traced: every memory access instrumented, for races and traffic counters.
"""

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11

from ggnet._build import cuda_home

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
# All of -fsanitize=undefined compiles three times as long; a null pointer is AddressSanitizer's.
UNDEFINED = (
    "alignment,bool,bounds,enum,float-cast-overflow,integer-divide-by-zero,shift,"
    "signed-integer-overflow"
)
# -g1: line numbers are all that a report needs.
VARIANTS = {
    "plain": ["-O1"],
    "asan": ["-O1", "-g1", f"-fsanitize=address,{UNDEFINED}", "-fno-sanitize-recover=all"],
    "traced": ["-O1", "-g1", "-fsanitize=thread"],
}


class Unavailable(Exception):
    """What the emulator needs and this machine lacks."""


def cuda_include() -> Path:
    """The folder of cuda_fp16.h: of the toolkit that nvcc belongs to, or of a package from PyPI."""
    folders = [home / "include"] if (home := cuda_home()) else []
    for entry in sys.path:
        folders.extend(Path(entry).glob("nvidia/*/include"))
    for folder in folders:
        if (folder / "cuda_fp16.h").exists() and (folder / "cuda_runtime_api.h").exists():
            return folder.resolve()
    raise Unavailable(
        "CUDA's headers (cuda_fp16.h, cuda_runtime_api.h) are not here; install the CUDA toolkit "
        "or `pip install nvidia-cuda-runtime nvidia-cuda-crt nvidia-cuda-cccl`"
    )


def sources() -> list[Path]:
    names = ("module", "simt", "hopper", "mbarrier", "wgmma")
    emulator = [CSRC / f"simt/{name}.cpp" for name in names]
    return sorted([*CSRC.glob("*/*_simt.cpp"), *emulator])


def build(variant: str) -> Path:
    """Compile the module unless the same sources were compiled before; returns its path."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise Unavailable("no C++ compiler (g++) on PATH")
    files = sources() + ([CSRC / "simt/trace.cpp"] if variant == "traced" else [])
    common = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-w", f"-I{CSRC}"]
    cuda = cuda_include()
    python = sysconfig.get_path("include")
    for include in (cuda, cuda / "cccl", pybind11.get_include(), python):
        common += ["-isystem", str(include)]
    flags = VARIANTS[variant]

    patterns = ("*/*.cuh", "*/*.h", "*/*_simt.cpp", "simt/*.cpp")
    texts = sorted({path for pattern in patterns for path in CSRC.glob(pattern)})
    digest = hashlib.sha256(repr((compiler, common, flags)).encode())
    for path in texts:
        digest.update(path.read_bytes())
    folder = ROOT / "build/simt" / f"{variant}-{digest.hexdigest()[:16]}"
    module = folder / f"ggnet_simt{sysconfig.get_config_var('EXT_SUFFIX')}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if module.exists():
            return module

        # The compiler does not need the sanitizer that is preloaded into this process.
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

        def run(*arguments: str) -> None:
            subprocess.run([compiler, *arguments], check=True, env=environment)

        def compile_one(source: Path) -> str:
            target = folder / f"{source.stem}.o"
            # Only kernels are instrumented; the emulator under them must be fast.
            own = list(flags)
            if not source.name.endswith("_simt.cpp"):
                own = [flag for flag in flags if flag != "-fsanitize=thread"] + ["-O3"]
            run(*common, *own, "-c", str(source), "-o", str(target))
            return str(target)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, files))
        link = ["-fsanitize=address,undefined"] if variant == "asan" else ["-ldl"]
        partial = module.with_suffix(".part")
        run("-shared", *objects, "-pthread", *link, "-o", str(partial))
        partial.replace(module)
    return module


def load(variant: str):
    """The compiled module of a variant."""
    path = build(variant)
    loader = importlib.machinery.ExtensionFileLoader("ggnet_simt", str(path))
    spec = importlib.util.spec_from_file_location("ggnet_simt", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def preloaded() -> str:
    """LD_PRELOAD of a process that loads the asan variant: the sanitizer, and the C++ library,
    for its way to throw exceptions, which the sanitizer looks for once."""

    def library(name: str) -> str:
        command = [os.environ.get("CXX", "g++"), f"-print-file-name={name}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    return f"{library('libasan.so')} {library('libstdc++.so')}"

"""The build's list, its messages, and what loading says when the library does not fit.

Whole installations in clean environments are in tests/install/check.sh.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from ggnet import __version__, _build
from ggnet.ops import _library

GIB = 1 << 30


@pytest.mark.parametrize(
    ("cpus", "memory", "jobs"), [(2, 64 * GIB, 2), (64, 3 * GIB, 3), (8, GIB // 2, 1)]
)
def test_memory_caps_compiler_processes(cpus, memory, jobs):
    assert _build.jobs(cpus, memory) == jobs


def test_free_memory_counts_what_caches_hold_and_the_control_groups_limit(tmp_path):
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 8000 kB\n")
    limit.write_text("max\n")
    assert _build.free_memory(str(meminfo), str(limit)) == 8000 * 1024
    limit.write_text("1000\n")
    assert _build.free_memory(str(meminfo), str(limit)) == 1000
    assert _build.free_memory(str(tmp_path / "none"), str(limit)) == 1000


def test_sources_are_the_schemas_and_every_cpu_kernel():
    sources = _build.sources()
    assert sources[0] == "csrc/library.cpp"
    assert "csrc/hna_loss/hna_loss_cpu.cpp" in sources
    assert all((_build.ROOT / path).exists() for path in [*sources, *_build.headers()])
    assert not any(path.endswith(".cu") for path in sources)
    assert set(sources) < set(_build.sources(cuda=True))


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_library_uses_nothing_of_torch_but_its_stable_abi():
    command = ["nm", "-DC", "--undefined-only", str(_library.FOLDER / _build.LIBRARY)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "aoti_torch_library_def" in listing
    unstable = [line for line in listing.splitlines() if "at::" in line or "c10::" in line]
    assert unstable == []


def _setup(tmp_path: Path, torch_files: dict[str, str], **env: str) -> subprocess.CompletedProcess:
    """Run setup.py beside a stand-in for torch."""
    for name, text in torch_files.items():
        path = tmp_path / "torch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=_build.ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)} | env,
        capture_output=True,
        text=True,
    )


def _torch(version: str, cuda: str | None = None) -> dict[str, str]:
    names = (
        "class BuildExtension:\n    pass\n\n\nCppExtension = CUDAExtension = lambda *a, **k: None\n"
    )
    return {
        "__init__.py": f"from types import SimpleNamespace\n__version__ = {version!r}\n"
        f"version = SimpleNamespace(cuda={cuda!r})\n"
        "cuda = SimpleNamespace(is_available=lambda: False)\n",
        "utils/__init__.py": "",
        "utils/cpp_extension.py": names,
    }


@pytest.mark.parametrize(
    ("torch_files", "compiler", "message"),
    [
        ({"__init__.py": "raise ImportError('no torch here')"}, "c++", "Install torch 2.11 or"),
        (_torch("2.10.1"), "c++", "needs torch 2.11 or newer; 2.10.1 is installed"),
        (_torch("2.11.0"), "no-such-compiler -O1", "'no-such-compiler' is not on PATH"),
        (_torch("2.11.0"), "false", "'false' is none"),
    ],
)
def test_setup_names_what_is_missing(tmp_path, torch_files, compiler, message):
    result = _setup(tmp_path, torch_files, CXX=compiler)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def _toolkit(folder: Path, version: str = "13.0") -> Path:
    """A stand-in for a CUDA toolkit, whose nvcc knows three architectures."""
    nvcc = folder / "bin/nvcc"
    for path in (nvcc, folder / "include/cuda_runtime.h"):
        path.parent.mkdir(parents=True)
    (folder / "include/cuda_runtime.h").touch()
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f"--dryrun) echo '#$ TOP={folder}/bin/..' >&2 ;;\n"
        "--list-gpu-code) printf 'sm_75\\nsm_80\\nsm_90\\n' ;;\n"
        f"--version) echo 'Cuda compilation tools, release {version}, V{version}.88' ;;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    return folder


def test_a_link_to_nvcc_leads_to_its_toolkit(tmp_path, monkeypatch):
    toolkit = _toolkit(tmp_path / "cuda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").symlink_to(toolkit / "bin/nvcc")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert _build.cuda_home() == toolkit
    assert _build.nvcc_version(toolkit) == (13, 0)
    assert _build.cuda_architectures(toolkit) == "8.0;9.0a;9.0+PTX"

    (toolkit / "include/cuda_runtime.h").unlink()
    assert _build.cuda_home() is None


def test_a_hopper_gpu_gets_its_own_instructions():
    assert _build.architectures_of_devices([(9, 0), (8, 6), (9, 0)]) == "8.6;9.0a"


@pytest.mark.parametrize(
    ("cuda", "nvcc", "env", "status", "message"),
    [
        ("13.0", "13.1", {}, 0, "building for CPU and CUDA"),
        ("13.0", "12.4", {}, 1, "13.0, and the nvcc of"),
        ("13.0", "12.4", {"GGNET_CUDA": "0"}, 0, "building for the CPU only: GGNET_CUDA=0"),
        ("13.0", None, {}, 0, "building for the CPU only: no nvcc"),
        (None, "13.0", {}, 0, "building for the CPU only: torch 2.11.0 is a build without CUDA"),
    ],
)
def test_nvcc_and_torch_decide_what_is_built(tmp_path, cuda, nvcc, env, status, message):
    home = _toolkit(tmp_path / "cuda", nvcc) if nvcc else tmp_path / "none"
    result = _setup(tmp_path, _torch("2.11.0", cuda), CXX="c++", CUDA_HOME=str(home), **env)
    assert result.returncode == status, result.stderr
    assert message in result.stderr


def test_backend_sees_the_environment_behind_the_isolated_folders(monkeypatch):
    import setuptools.build_meta  # noqa: F401  what isolation provides

    environment = sysconfig.get_path("purelib")
    isolated = [path for path in sys.path if path != environment]
    monkeypatch.setattr(sys, "path", [*isolated, str(_build.ROOT)])
    monkeypatch.delitem(sys.modules, "build_backend", raising=False)
    import build_backend

    assert sys.path[-1] == environment
    assert callable(build_backend.build_wheel)
    assert callable(build_backend.build_editable)


def _record(folder: Path, **changes: str) -> None:
    _build.write_build_info(folder, __version__, "2.13.0", None)
    path = folder / _build.BUILD_INFO
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _load_error(folder: Path) -> str:
    with pytest.raises(ImportError) as caught:
        _library.load(folder)
    message = str(caught.value)
    assert f"found:    torch {torch.__version__}, CUDA" in message
    assert "expected: torch 2.11 or newer" in message
    assert "-m pip install --no-build-isolation" in message
    return message


def test_missing_library_is_named(tmp_path):
    message = _load_error(tmp_path)
    assert f"{tmp_path / _build.LIBRARY} does not exist" in message
    assert "built against nothing recorded" in message


def test_library_that_does_not_load_is_named_with_what_it_was_built_for(tmp_path):
    (tmp_path / _build.LIBRARY).write_bytes(b"\x7fELF of another machine")
    _record(tmp_path, cuda="13.0", platform="linux-aarch64")
    message = _load_error(tmp_path)
    assert "built against torch 2.13.0, CUDA 13.0, Python" in message
    assert "linux-aarch64" in message


def test_library_of_another_version_is_refused(tmp_path):
    (tmp_path / _build.LIBRARY).touch()
    _record(tmp_path, version="0.0.1")
    assert f"was built for ggnet 0.0.1, these Python files are {__version__}" in _load_error(
        tmp_path
    )


def test_library_without_an_operator_is_refused(monkeypatch):
    monkeypatch.setattr(_library, "SCHEMAS", {"tomorrow": ("operator_of_tomorrow",)})
    assert "it lacks operator_of_tomorrow" in _load_error(_library.FOLDER)


def test_torch_below_the_stable_abi_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.10.1")
    assert "this torch is too old" in _load_error(_library.FOLDER)


@pytest.mark.parametrize(
    ("version", "enough"), [("2.10.9", False), ("2.11.0a0+git1", True), ("2.13.0+cpu", True)]
)
def test_versions_compare_as_numbers(version, enough):
    assert _build.new_enough(version) is enough

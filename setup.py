"""Compiles ggnet's operators against the torch that is already installed."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent))
from ggnet import __version__, _build  # noqa: E402

minimum = ".".join(map(str, _build.MIN_TORCH))
home = _build.cuda_home()
if home is not None:  # torch guesses from nvcc's folder, which may hold only a link to it
    os.environ["CUDA_HOME"] = str(home)
try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension
except ImportError as error:
    sys.exit(
        f"ggnet compiles against an installed torch, and none can be imported ({error}). Install "
        f"torch {minimum} or newer (pip install torch), then: "
        "pip install --no-build-isolation -e ."
    )
if not _build.new_enough(torch.__version__):
    sys.exit(f"ggnet needs torch {minimum} or newer; {torch.__version__} is installed.")
compiler = shlex.split(os.environ.get("CXX", "c++"))
advice = "Install g++ 11 or newer (Debian, Ubuntu: apt install g++), or name a compiler in CXX."
if shutil.which(compiler[0]) is None:
    sys.exit(f"ggnet needs a C++20 compiler, and '{compiler[0]}' is not on PATH. {advice}")
probe = [*compiler, "-std=c++20", "-x", "c++", "-fsyntax-only", os.devnull]
if subprocess.run(probe, capture_output=True).returncode:
    sys.exit(f"ggnet needs a C++20 compiler, and '{compiler[0]}' is none. {advice}")
os.environ.setdefault("MAX_JOBS", str(_build.jobs(os.cpu_count() or 1, _build.free_memory())))

# The gate is nvcc, not a GPU: machines that build have none.
if os.environ.get("GGNET_CUDA") == "0":
    cuda, why = None, "GGNET_CUDA=0"
elif torch.version.cuda is None:
    cuda, why = None, f"torch {torch.__version__} is a build without CUDA"
elif home is None:
    cuda, why = None, "no nvcc with its toolkit on PATH or in CUDA_HOME"
else:
    cuda, why = torch.version.cuda, f"nvcc of {home}"
if cuda is not None:
    found = ".".join(map(str, _build.nvcc_version(home)))
    if found.partition(".")[0] != cuda.partition(".")[0]:
        sys.exit(
            f"ggnet: torch {torch.__version__} was built with CUDA {cuda}, and the nvcc of {home} "
            f"is {found}: they must have the same major version. Name a toolkit of CUDA "
            f"{cuda.partition('.')[0]} in CUDA_HOME, or set GGNET_CUDA=0 to build for the CPU only."
        )
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [torch.cuda.get_device_capability(i) for i in range(count)]
        os.environ["TORCH_CUDA_ARCH_LIST"] = (
            _build.architectures_of_devices(gpus) if gpus else _build.cuda_architectures(home)
        )
print(f"ggnet: building for {'CPU and CUDA' if cuda else 'the CPU only'}: {why}", file=sys.stderr)


class BuildLibrary(BuildExtension):
    """Adds the record of what the library was built for."""

    def run(self) -> None:
        super().run()
        folder = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
        _build.write_build_info(folder, __version__, torch.__version__, cuda)


setup(
    packages=[*find_packages(include=["ggnet", "ggnet.*"]), "ggnet.kernels"],
    ext_modules=[
        (CUDAExtension if cuda else CppExtension)(
            "ggnet._C",
            _build.sources(cuda is not None),
            depends=_build.headers(),
            include_dirs=_build.include_dirs(),
            extra_compile_args={"cxx": _build.cxx_flags(), "nvcc": _build.nvcc_flags()},
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

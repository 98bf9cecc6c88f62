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
try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
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


class BuildLibrary(BuildExtension):
    """Adds the record of what the library was built for."""

    def run(self) -> None:
        super().run()
        folder = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
        _build.write_build_info(folder, __version__, torch.__version__, None)


setup(
    packages=[*find_packages(include=["ggnet", "ggnet.*"]), "ggnet.kernels"],
    ext_modules=[
        CppExtension(
            "ggnet._C",
            _build.sources(),
            depends=_build.headers(),
            include_dirs=_build.include_dirs(),
            extra_compile_args=_build.cxx_flags(),
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)

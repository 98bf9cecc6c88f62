"""Compiles ggnet's operators against the torch that is already installed."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).parent))
from ggnet import __version__, _build  # noqa: E402

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    sys.exit(
        f"ggnet compiles against an installed torch, and none can be imported ({error}). Install "
        "torch 2.11 or newer (pip install torch), then: pip install --no-build-isolation -e ."
    )
compiler = os.environ.get("CXX", "c++")
if shutil.which(compiler) is None:
    sys.exit(
        f"ggnet needs a C++20 compiler, and '{compiler}' is not on PATH. Install one (g++ 11 or "
        "newer; Debian and Ubuntu: apt install g++) or name one in CXX."
    )
os.environ.setdefault("MAX_JOBS", str(_build.jobs(os.cpu_count() or 1, _build.free_memory())))


class BuildLibrary(BuildExtension):
    """Adds the record of what the library was built for."""

    def run(self) -> None:
        super().run()
        library = self.extensions[0].name
        folders = {Path(self.get_ext_fullpath(library)).parent}
        if not self.inplace:
            folders.add(Path(self.build_lib) / "ggnet")
        for folder in folders:
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

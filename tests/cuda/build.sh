#!/usr/bin/env bash
# Compiles the whole extension with nvcc beside a CUDA build of torch, and tests what needs no GPU.
#   tests/cuda/build.sh [budget]       budget: rewrites tests/budget/cuda.json and the table of
#                                      docs/kernels.md instead of comparing
# TORCH_CUDA names the torch to install; TORCH_CUDA_ARCH_LIST the architectures to compile for.
set -euo pipefail
torch=${TORCH_CUDA:-torch==2.14.1}
python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$root/build/cuda
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-8.0;9.0a;10.0} PIP_QUIET=1 PIP_DISABLE_PIP_VERSION_CHECK=1

home=$(cd "$root" && "$python" -c 'from ggnet import _build; print(_build.cuda_home() or "")')
if [ -z "$home" ]; then
  echo "skipped: no nvcc with its toolkit on PATH or in CUDA_HOME, so the CUDA kernels cannot be compiled"
  exit 0
fi
if [ ! -e "$work/venv/.ready" ]; then
  "$python" -m venv "$work/venv"
  "$work/venv/bin/pip" install 'setuptools>=77' wheel ninja pytest pybind11 "$torch"
  touch "$work/venv/.ready"
fi
if ! "$work/venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
  echo "skipped: $torch is a build without CUDA here; name another in TORCH_CUDA"
  exit 0
fi

# A copy of the sources: a checkout has room for one compiled library.
rm -rf "$work/source"
mkdir -p "$work/source"
git -C "$root" ls-files -z --cached --others --exclude-standard |
  tar -C "$root" --null --ignore-failed-read -T - -cf - | tar -C "$work/source" -xf -
cd "$work/source"
"$work/venv/bin/pip" install --no-build-isolation -e .
if [ "${1:-}" = budget ]; then
  "$work/venv/bin/python" tests/cuda/static.py
  cp tests/budget/cuda.json "$root/tests/budget/cuda.json"
  "$python" "$root/tests/budget/table.py"
else
  "$work/venv/bin/python" -m pytest -q tests/cuda
fi

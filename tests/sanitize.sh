#!/usr/bin/env bash
# Compiles the CPU kernels with the address and undefined-behavior sanitizers, in a copy of the
# sources, and runs the operators' tests on them.   tests/sanitize.sh [PYTEST_ARGUMENT...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
cxx=${CXX:-c++}
copy=$root/build/asan/source

mkdir -p "$copy"
find "$copy" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
git -C "$root" ls-files -z --cached --others --exclude-standard |
  tar -C "$root" --null --ignore-failed-read -T - -cf - | tar -C "$copy" -xf -
cd "$copy"
flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
CFLAGS=$flags LDFLAGS=$flags GGNET_CUDA=0 "$python" setup.py --quiet build_ext --inplace
# Python itself is not instrumented, so the runtime comes first; what it keeps is no leak of ours.
LD_PRELOAD="$($cxx -print-file-name=libasan.so):$($cxx -print-file-name=libubsan.so)" \
  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
  "$python" -m pytest -q -n 2 tests/ops "$@"

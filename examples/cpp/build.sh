#!/usr/bin/env bash
# Builds detect with the torch of a Python: examples/cpp/build.sh [PYTHON [OUTPUT]]
set -euo pipefail
root=$("${1:-python3}" -c 'import torch; print(torch.__path__[0])')
"${CXX:-c++}" -std=c++20 -O1 "$(dirname "$0")/detect.cpp" -o "${2:-detect}" \
    -I"$root/include" -I"$root/include/torch/csrc/api/include" \
    -L"$root/lib" -Wl,-rpath,"$root/lib" -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 -ldl

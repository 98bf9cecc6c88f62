#!/usr/bin/env bash
# Everything that wants a GPU, in parts of at most five minutes: the operators' tests on it,
# compute-sanitizer, kernels with peers, peers that tune for minutes, a backward that is off by
# default, whole networks with peers. Each part writes as it goes.
#   tests/device/check.sh [RESULTS_FOLDER [PART...]]   parts: tests sanitizers kernels peers sums networks
# Run in an environment where ggnet was built with CUDA (PYTHON names its interpreter). The peers
# torchvision, mmcv and deformops are measured where they are installed.
set -uo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
results=${1:-runs/gpu-check}
known=(tests sanitizers kernels peers sums networks)
for name in "${@:2}"; do
  if [[ " ${known[*]} " != *" $name "* ]]; then
    echo "gpu-check: no part '$name'; expected one or more of: ${known[*]}" >&2
    exit 2
  fi
done

"$python" - <<'PYTHON' || exit 1
import sys
import torch
if not torch.cuda.is_available():
    sys.exit(f"gpu-check: torch {torch.__version__} finds no GPU, so there is nothing to check")
from ggnet.ops import _library
if _library.read_build_info(_library.FOLDER)["cuda"] is None:
    sys.exit("gpu-check: ggnet was built without CUDA; with nvcc on PATH: pip install -e .")
PYTHON
mkdir -p "$results"
parts=("${@:2}")
[ ${#parts[@]} -gt 0 ] || parts=("${known[@]}")
wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }
failed=()
part() {  # part NAME SECONDS COMMAND...: its output goes to a file and its end into the summary
  local name=$1 seconds=$2
  shift 2
  printf '== %s\n' "$name"
  local end=passed
  if ! timeout "$seconds" "$@" >"$results/$name.txt" 2>&1; then
    end="FAILED, see $results/$name.txt"
    failed+=("$name")
  fi
  echo "$name: $end: $(tail -n 1 "$results/$name.txt")" | tee -a "$results/summary.txt"
}

{
  date -u
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
  "$python" -m ggnet env
} >"$results/summary.txt" 2>&1
# In parallel, as Triton compiles each kernel for each type.
wanted tests && part tests 250 "$python" -m pytest -q -n 12 tests/device tests/cuda
if wanted sanitizers; then
  if command -v compute-sanitizer >/dev/null; then
    # One small shape of each operator: the tools run kernels hundreds of times slower.
    small="not graph and not 64-80 and (bfloat16 or float32) and (topk or heatmaps or hna or deform)"
    for tool in memcheck racecheck; do
      part "$tool" 80 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$python" -m pytest -q -x tests/device/test_operators.py -k "cuda and $small"
      part "$tool-choices" 70 compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$python" -m pytest -q -x tests/device/test_kernel_choices.py
    done
  else
    echo "compute-sanitizer: not on PATH, skipped" | tee -a "$results/summary.txt"
  fi
fi
peers=(ggnet "dense conv2d" torchvision mmcv torch.compile)
if wanted kernels; then
  rm -f "$results/benchmarks.json"  # of an earlier run, of other kernels perhaps
  # A process each few operators: what ends one does not take the others' figures along.
  for operators in "actpoint-batch8 actpoint" "deform3x3 deform3x3-batch8 actpoint-demo" \
    "hna_loss topk_peaks decode_hoi"; do
    part "bench-${operators%% *}" 90 "$python" -m bench --device cuda --op $operators \
      --dtype bfloat16 float16 float32 --mode forward full deterministic --repeats 10 --budget 1 \
      --provider "${peers[@]}" --append --out "$results/benchmarks.json"
  done
  cat "$results"/bench-*.txt >>"$results/summary.txt"
fi
if wanted peers; then
  # By themselves, so that nothing of ours fails if their tuning does not end.
  timeout 90 "$python" -m bench --device cuda --op actpoint --dtype float16 --mode forward \
    --repeats 10 --budget 1 --provider ggnet triton deformops --out "$results/deformops.json" \
    >"$results/deformops.txt" 2>&1 || echo "deformops: no figure within 90 s" >>"$results/deformops.txt"
  cat "$results/deformops.txt" >>"$results/summary.txt"
fi
if wanted sums; then
  # Where Hopper's backward does not run: each sample added to global memory, or sums in blocks.
  for sums in 0 1; do
    GGNET_HOPPER=0 GGNET_BLOCK_SUMS=$sums part "sums-$sums" 40 "$python" -m bench --device cuda \
      --op actpoint actpoint-batch8 deform3x3-batch8 --dtype bfloat16 --mode full deterministic \
      --repeats 10 --budget 1 --provider ggnet --out "$results/sums-$sums.json"
    cat "$results/sums-$sums.txt" >>"$results/summary.txt"
  done
fi
if wanted networks; then
  part networks 200 "$python" -m bench model --device cuda --preset goals \
    --out "$results/networks.json"
  cat "$results/networks.txt" >>"$results/summary.txt"
fi
echo "results: $results/summary.txt"
[ ${#failed[@]} -eq 0 ]

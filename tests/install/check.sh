#!/usr/bin/env bash
# Installs ggnet as users do, in throw-away environments, and runs an operator in each.
#   tests/install/check.sh [TORCH_TO_BUILD_AGAINST [TORCH_TO_RUN_UNDER]]      (pip requirements)
set -euo pipefail
build_torch=${1:-torch==2.13.0}
run_torch=${2:-$build_torch}
. "$(dirname "$0")/common.sh"

must_say() {  # must_say TEXT COMMAND...: the command fails and explains itself in one line
  local text=$1 output
  shift
  output=$("$@" 2>&1) && fail "'$*' succeeded"
  grep -qF "$text" <<<"$output" || fail "no '$text' in: $output"
  ! grep -qF Traceback <<<"$output" || fail "a traceback: $output"
}
run_operators() {  # run_operators ENVIRONMENT FOLDER: what is imported lies in FOLDER
  (cd "$work" && "$1/bin/python" "$root/tests/install/run.py" "$2")  # outside of the checkout
}

mkdir "$work/source"
git -C "$root" ls-files -z --cached --others --exclude-standard |
  tar -C "$root" --null -T - -cf - | tar -C "$work/source" -xf -
cd "$work/source"

step "no torch: says what to install"
"$python" -m venv "$work/empty"
must_say "Install torch 2.11 or newer" "$work/empty/bin/pip" install .

step "no compiler: says what to install"
"$python" -m venv "$work/build"
"$work/build/bin/pip" install "$build_torch"
torch_before=$("$work/build/bin/pip" freeze | grep '^torch==')
must_say "needs a C++20 compiler" env CXX=no-such-compiler "$work/build/bin/pip" install .

step "wheel, with build isolation"
"$work/build/bin/pip" wheel --no-deps --wheel-dir "$work/wheels" .
wheel=$(ls "$work/wheels"/ggnet-*-cp311-abi3-*.whl) || fail "no wheel for every Python from 3.11 on"

step "the wheel in a clean environment"
"$python" -m venv "$work/clean"
"$work/clean/bin/pip" install "$run_torch" "$wheel"
run_operators "$work/clean" "$work/clean"
"$work/clean/bin/ggnet" env >/dev/null

step "editable, with build isolation"
"$work/build/bin/pip" install -e .
run_operators "$work/build" "$work/source"
[ "$("$work/build/bin/pip" freeze | grep '^torch==')" = "$torch_before" ] ||
  fail "the installation replaced $torch_before"
echo "installation: ok"

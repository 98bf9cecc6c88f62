#!/usr/bin/env bash
# The tests of the HTML page in headless Chromium, which is installed where it is missing and
# apt-get can: Chromium and a font for the machine, playwright for the environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}

"$python" -c 'import playwright' 2>/dev/null ||
  "$python" -m pip install --quiet --disable-pip-version-check playwright
found=
for name in chromium-headless-shell chromium chromium-browser google-chrome chrome; do
  command -v "$name" >/dev/null && found=$name && break
done
if [ -z "$found" ]; then
  as_root=
  [ "$(id -u)" = 0 ] || as_root="sudo -n"
  if ! { $as_root apt-get -qq update && $as_root apt-get -qq install -y --no-install-recommends \
    chromium-headless-shell fonts-dejavu-core; } >/dev/null; then
    echo "skipped: no Chromium here, and apt-get cannot install chromium-headless-shell"
    exit 0
  fi
fi
"$python" -m pytest -q tests/report/test_report_in_browser.py tests/docs/test_viewer_page.py \
  -m "slow or not slow" "$@"

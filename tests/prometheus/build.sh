#!/usr/bin/env bash
# build.sh OUTDIR   brings what the tests of /metrics, alert rules and dashboard need: PromQL's grammar and checks as
# Prometheus' own editor has them, and the Python client's parser of the page. Prints OUTDIR. Exit 3: a toolchain is missing.
# Nothing is done when nothing changed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:?usage: build.sh OUTDIR}"
out=$(cd "$1" && pwd)
for tool in node npm python3; do
  command -v "$tool" >/dev/null 2>&1 || { echo "build.sh: no $tool here, metrics and rules cannot be checked" >&2; exit 3; }
done
if command -v flock >/dev/null 2>&1; then
  exec 9>"$out/.lock"
  flock 9
fi
cd "$here"
stamp=$({ node -v; python3 -V; cat -- * .npmrc; echo "$out"; } | sha256sum)
if [ "$(cat "$out/.stamp" 2>/dev/null)" != "$stamp" ]; then
  {
    rm -f "$out/.stamp"
    cp package.json package-lock.json .npmrc check.js read.py "$out/"
    (cd "$out" && npm ci --omit=dev --ignore-scripts --prefer-offline --loglevel=error)
    rm -rf "$out/venv"
    python3 -m venv "$out/venv"
    "$out/venv/bin/python" -m pip install --quiet --no-deps -r requirements.txt
  } >"$out/build.log" 2>&1 9>&- || { tail -n 30 "$out/build.log" >&2; exit 1; }
  echo "$stamp" >"$out/.stamp"
fi
echo "$out"

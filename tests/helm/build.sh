#!/usr/bin/env bash
# build.sh OUTDIR   brings what the tests of the chart need: helm, built from its Go module, and a Python with
# Kubernetes' own types. Prints OUTDIR. Exit 3: a toolchain is missing. Nothing is done when nothing changed.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:?usage: build.sh OUTDIR}"
out=$(cd "$1" && pwd)
for tool in go python3; do
  command -v "$tool" >/dev/null 2>&1 || { echo "build.sh: no $tool here, the chart cannot be checked" >&2; exit 3; }
done
if command -v flock >/dev/null 2>&1; then
  exec 9>"$out/.lock"
  flock 9
fi
cd "$here"
stamp=$({ go version; python3 -V; cat build.sh go.mod go.sum requirements.txt; echo "$out"; } | sha256sum)
if [ "$(cat "$out/.stamp" 2>/dev/null)" != "$stamp" ]; then
  {
    rm -f "$out/.stamp"
    # Without its symbols, which nobody looks at, the link takes half as long.
    GOFLAGS='' go build -mod=readonly -trimpath -ldflags='-s -w' -o "$out/helm" helm.sh/helm/v3/cmd/helm
    rm -rf "$out/venv"
    python3 -m venv "$out/venv"
    "$out/venv/bin/python" -m pip install --quiet --no-deps -r requirements.txt
  } >"$out/build.log" 2>&1 9>&- || { tail -n 30 "$out/build.log" >&2; exit 1; }
  echo "$stamp" >"$out/.stamp"
fi
echo "$out"

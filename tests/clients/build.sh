#!/usr/bin/env bash
# build.sh LANG OUTDIR   builds the driver of one official client (java go python node rust), or grpcurl.
# The last line printed is the command that runs it. Exit 3: the toolchain is missing.
# The build's own output goes to OUTDIR/build.log. Nothing is done when nothing changed.
set -euo pipefail

die() { echo "build.sh: $1" >&2; exit "${2:-1}"; }
[ $# -eq 2 ] || die "usage: build.sh java|go|python|node|rust|grpcurl OUTDIR"
lang=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
src=$here/$lang
mkdir -p "$2"
out=$(cd "$2" && pwd)
log=$out/build.log

need() {
  for tool in "$@"; do
    command -v "$tool" >/dev/null 2>&1 || die "no $tool here, the $lang client cannot be built" 3
  done
}
case $lang in
  java) need java mvn; version() { java -version; mvn -v; } ;;
  go | grpcurl) need go; version() { go version; } ;;
  python) need python3; version() { python3 -V; } ;;
  node) need node npm; version() { node -v; } ;;
  rust) need cargo rustc; version() { rustc -V; } ;;
  *) die "unknown language $lang" ;;
esac

# One build at a time per OUTDIR.
if command -v flock >/dev/null 2>&1; then
  exec 9>"$out/.lock"
  flock 9
fi

hash_of() { sha256sum | cut -d' ' -f1; }
cd "$src"
stamp=$({
  cat "$here/build.sh"
  version 2>&1
  find . -type f ! -path './target/*' ! -path './node_modules/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
  echo "$out"
} | hash_of)
run() { printf '%q\n' "$out/driver"; }
if [ -x "$out/driver" ] && [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ]; then
  run
  exit 0
fi
rm -f "$out/.stamp"

# A step that installs packages, done again only when FILE changed.
installed() { [ "$(cat "$out/.packages" 2>/dev/null)" = "$(version 2>&1 | cat - "$1" | hash_of)" ]; }
note_installed() { version 2>&1 | cat - "$1" | hash_of >"$out/.packages"; }

launcher() {
  printf '#!/bin/sh\nd=$(dirname "$0")\nexec %s "$@"\n' "$1" >"$out/driver.new"
  chmod +x "$out/driver.new"
  mv "$out/driver.new" "$out/driver"
}

build() {
  case $lang in
    java)
      mvn -B -q -Dout="$out" compiler:compile dependency:copy-dependencies
      launcher 'java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx512m -cp "$d/classes:$d/lib/*" Driver'
      ;;
    go)
      GOFLAGS='' go build -mod=readonly -trimpath -o "$out/driver.new" .
      mv "$out/driver.new" "$out/driver"
      ;;
    grpcurl)
      GOFLAGS='' go build -mod=readonly -trimpath -o "$out/driver.new" github.com/fullstorydev/grpcurl/cmd/grpcurl
      mv "$out/driver.new" "$out/driver"
      ;;
    python)
      if ! installed requirements.txt; then
        rm -rf "$out/venv"
        python3 -m venv "$out/venv"
        "$out/venv/bin/python" -m pip install --quiet --no-deps -r requirements.txt
        note_installed requirements.txt
      fi
      cp driver.py "$out/driver.py"
      launcher '"$d/venv/bin/python" -B "$d/driver.py"'
      ;;
    node)
      cp package.json package-lock.json .npmrc driver.js "$out/"
      if ! installed package-lock.json; then
        (cd "$out" && npm ci --omit=dev --ignore-scripts --prefer-offline --loglevel=error)
        note_installed package-lock.json
      fi
      launcher 'node "$d/driver.js"'
      ;;
    rust)
      CARGO_TARGET_DIR="$out/target" cargo build --quiet --locked
      cp "$out/target/debug/rocketmq-driver" "$out/driver.new"
      mv "$out/driver.new" "$out/driver"
      ;;
  esac
}

set +e # not inside an `if`: there bash would ignore the inner `set -e`
(set -e; build) >"$log" 2>&1 9>&-
status=$?
set -e
if [ $status -ne 0 ]; then
  echo "build.sh: the $lang driver did not build, end of $log:" >&2
  tail -n 30 "$log" >&2
  exit 1
fi
echo "$stamp" >"$out/.stamp"
run

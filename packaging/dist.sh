#!/usr/bin/env bash
# Makes the release archive with its checksum: dist/ferromq-VERSION-x86_64-linux.tar.gz
#
#   packaging/dist.sh [--binary FILE] [--out DIR]
#
# Without --binary, the static one is built first: that needs musl-gcc (Debian: musl-tools) and
# `rustup target add x86_64-unknown-linux-musl`. The same input gives the same bytes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

binary='' out=dist target=x86_64-unknown-linux-musl
while [ $# -gt 0 ]; do
  case $1 in
    --binary) binary=${2:?--binary wants a file}; shift ;;
    --out) out=${2:?--out wants a directory}; shift ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
  shift
done
if [ -z "$binary" ]; then
  cargo build --release --locked --target $target --bin ferromq
  binary=${CARGO_TARGET_DIR:-target}/$target/release/ferromq
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
name=ferromq-$version-x86_64-linux
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dir=$work/$name
mkdir -p "$dir/bin" "$dir/conf" "$out"
cp "$binary" "$dir/bin/ferromq"
cp conf/production.conf conf/ferromq.conf conf/ferromq.toml conf/ferromq.yaml "$dir/conf/"
cp -r helm "$dir/"
cp LICENSE README.md README.zh.md packaging/ferromq.service packaging/install.sh "$dir/"
cargo metadata --format-version 1 --locked --filter-platform $target >"$work/metadata.json"
python3 -B packaging/bill.py "$work/metadata.json" Cargo.lock "$dir/ferromq.cdx.json" "$dir/THIRD-PARTY-LICENSES.txt"
find "$dir" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
chmod 755 "$dir/bin/ferromq" "$dir/install.sh"
(cd "$dir" && find . -type f ! -name SHA256SUMS -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum >SHA256SUMS)
# The time of the last commit, where there is one.
stamp=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$stamp" --format=gnu -C "$work" -cf - "$name" \
  | gzip -9 -n >"$out/$name.tar.gz"
cp "$dir/ferromq.cdx.json" "$out/$name.cdx.json"
(cd "$out" && sha256sum "$name.tar.gz" "$name.cdx.json" >SHA256SUMS)
echo "$out/$name.tar.gz"

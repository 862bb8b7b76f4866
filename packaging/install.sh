#!/bin/sh
# Installs FerroMQ from an unpacked archive: program, settings, completions, and the unit of systemd.
# Settings that are there already stay; the new ones lie beside them as ferromq.conf.new.
#
#   ./install.sh [--prefix DIR] [--root DIR] [--uninstall]
#
# --prefix  where the program goes; /usr/local
# --root    a directory that stands for /, for packages and images; then systemd is not told
set -eu

prefix=/usr/local root='' uninstall=no
while [ $# -gt 0 ]; do
  case $1 in
    --prefix) prefix=${2:?--prefix wants a directory}; shift ;;
    --root) root=${2:?--root wants a directory}; shift ;;
    --uninstall) uninstall=yes ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0; exit 2 ;;
  esac
  shift
done
here=$(cd "$(dirname "$0")" && pwd)
bin=$root$prefix/bin conf=$root/etc/ferromq unit=$root/etc/systemd/system/ferromq.service
share=$root$prefix/share
tell_systemd() { [ -n "$root" ] || ! command -v systemctl >/dev/null 2>&1 || systemctl "$@"; }

if [ $uninstall = yes ]; then
  tell_systemd disable --now ferromq.service || true
  rm -f "$bin/ferromq" "$unit" "$share/bash-completion/completions/ferromq"
  rm -rf "$share/doc/ferromq"
  tell_systemd daemon-reload
  echo "removed; settings in /etc/ferromq and data in /var/lib/ferromq are still there"
  exit 0
fi

# Beside the old one first, so that a running program is never half written.
put() { # MODE FROM TO
  mkdir -p "$(dirname "$3")"
  cp "$2" "$3.installing"
  chmod "$1" "$3.installing"
  mv -f "$3.installing" "$3"
}
(cd "$here" && sha256sum --quiet --check SHA256SUMS)
put 755 "$here/bin/ferromq" "$bin/ferromq"
for file in LICENSE THIRD-PARTY-LICENSES.txt ferromq.cdx.json; do
  put 644 "$here/$file" "$share/doc/ferromq/$file"
done
"$bin/ferromq" completions bash >"$here/.completions" 2>/dev/null && {
  put 644 "$here/.completions" "$share/bash-completion/completions/ferromq"
  rm -f "$here/.completions"
}
new=$conf/ferromq.conf
[ ! -e "$new" ] || cmp -s "$here/conf/production.conf" "$new" || new=$new.new
put 644 "$here/conf/production.conf" "$new"
put 644 "$here/conf/ferromq.conf" "$conf/ferromq.conf.sample"
sed "s|@prefix@|$prefix|" "$here/ferromq.service" >"$here/.unit"
put 644 "$here/.unit" "$unit"
rm -f "$here/.unit"
tell_systemd daemon-reload
echo "installed $prefix/bin/ferromq; settings: /etc/ferromq/ferromq.conf"
echo "start it: systemctl enable --now ferromq"

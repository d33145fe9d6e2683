#!/bin/bash
# What `make demo` shows: a Debian base, a discovery overlay on it, and a command in both together;
# all of it without root rights. Started as root, it goes on as a user who has none.
#
#     examples/demo.sh target/release/overcoat
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/.."

if [[ $(id -u) = 0 ]]; then
  user=${OVERCOAT_TEST_USER:-overcoat-test}
  as_user() { runuser -u "$user" -- "$@"; }
  if as_user test -r "$PWD/examples/base/base.yml" && as_user test -x "$program"; then
    place=$PWD
    install -d -o "$user" build
  else
    # A folder that only root may enter: the user gets a copy.
    place=$(as_user mktemp -d /var/tmp/overcoat-demo.XXXXXX)
    trap 'rm -rf "$place"' EXIT
    install -d -o "$user" "$place/build"
    cp -r examples "$place/"
    cp "$program" "$place/overcoat"
    for image in build/base.squashfs build/base.squashfs.manifest.json; do
      [[ -e $image ]] && install -m 644 "$image" "$place/build/"
    done
    chmod -R a+rX "$place"
    program=$place/overcoat
  fi
  echo "This is root's shell: going on as $user, who has no rights."
  as_user env HOME="$(getent passwd "$user" | cut -d: -f6)" "$place/examples/demo.sh" "$program"
  if [[ $place != "$PWD" ]]; then
    install -d build
    install -m 644 "$place"/build/*.* build/
  fi
  exit
fi

mkdir -p build
overcoat() {
  printf '\n$ overcoat %s\n' "$*"
  "$program" "$@"
}
seconds() { printf '(%d s)\n' $((SECONDS - start)); }

start=$SECONDS
if [[ ! -s build/base.squashfs ]]; then
  overcoat base examples/base/base.yml
  seconds
else
  printf '\nThe base is there: %s\n' "$(du -h --apparent-size build/base.squashfs)"
fi

start=$SECONDS
overcoat build examples/discovery/discovery.yml
seconds

printf '\n$ gzip -dc build/discovery.cpio.gz | cpio --list\n'
gzip -dc build/discovery.cpio.gz | cpio --quiet --list |
  awk 'NR <= 8; END { printf "… %d entries\n", NR }'

printf '\n$ grep totals build/discovery.cpio.gz.manifest.json\n'
grep totals build/discovery.cpio.gz.manifest.json

overcoat run build/base.squashfs build/discovery.cpio.gz -- \
  sh -c 'id -un; lsscsi --version; ethtool --version; ls -l /etc/discovery'

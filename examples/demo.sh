#!/bin/bash
# What `make demo` shows: all that machines need to boot from the network (examples/netboot), and a
# command in a base and its overlay together; all of it without root rights. Started as root, it goes
# on as a user who has none.
#
#     examples/demo.sh target/release/overcoat
set -euo pipefail
program=$(realpath "$1")
cd "$(dirname "$0")/.."

if [[ $(id -u) = 0 ]]; then
  user=${OVERCOAT_TEST_USER:-overcoat-test}
  as_user() { runuser -u "$user" -- "$@"; }
  if as_user test -r "$PWD/examples/netboot/overcoat.yml" && as_user test -x "$program"; then
    place=$PWD
    install -d build
    install -d -o "$user" build/netboot
  else
    # A folder that only root may enter: the user gets a copy.
    place=$(as_user mktemp -d /var/tmp/overcoat-demo.XXXXXX)
    trap 'rm -rf "$place"' EXIT
    install -d -o "$user" "$place/build"
    cp -r examples "$place/"
    cp "$program" "$place/overcoat"
    [[ -d build/netboot ]] && cp -rp build/netboot "$place/build/"
    chown -R "$user" "$place/build"
    chmod -R a+rX "$place"
    program=$place/overcoat
  fi
  echo "This is root's shell: going on as $user, who has no rights."
  as_user env HOME="$(getent passwd "$user" | cut -d: -f6)" "$place/examples/demo.sh" "$program"
  if [[ $place != "$PWD" ]]; then
    install -d build
    cp -rp "$place/build/netboot" build/
  fi
  exit
fi

mkdir -p build
overcoat() {
  printf '\n$ overcoat %s\n' "$*"
  "$program" "$@"
}
netboot=build/netboot

overcoat build examples/netboot
overcoat build examples/netboot

printf '\n$ ls -sh %s\n' "$netboot"
ls -sh "$netboot" | grep -v -e manifest -e total

printf '\n$ gzip -dc %s/discovery.cpio.gz | cpio --list\n' "$netboot"
gzip -dc "$netboot/discovery.cpio.gz" | cpio --quiet --list |
  awk 'NR <= 8; END { printf "… %d entries\n", NR }'

overcoat run "$netboot/base.squashfs" "$netboot/discovery.cpio.gz" -- lsscsi --version

printf '\nTo boot it as a machine would (qemu-system-x86, ipxe-qemu):\n'
printf '$ overcoat boot -p examples/netboot/overcoat.yml discovery\n'

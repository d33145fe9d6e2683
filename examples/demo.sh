#!/bin/bash
# What `make demo` shows: all that machines need to boot from the network (examples/netboot), and a
# command in a base and its overlay together; all of it without root rights. Started as root, it goes
# on as a user who has none.
#
#     examples/demo.sh target/release/overcoat [boot]
#
# With `boot` it then boots a machine of QEMU's: discovery, by gzip, and an overlay by zstd over it.
set -euo pipefail
program=$(realpath "$1")
boot=${2:-}
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
  as_user env HOME="$(getent passwd "$user" | cut -d: -f6)" "$place/examples/demo.sh" "$program" "$boot"
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

if [[ $boot != boot ]]; then
  printf '\nTo boot it as a machine would (qemu-system-x86, ipxe-qemu):\n'
  printf '$ overcoat boot -p examples/netboot/overcoat.yml discovery\n'
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
overcoat run "$netboot/base.squashfs" "$netboot/discovery.cpio.gz" --save "$work/motd.cpio.zst" \
  -- sh -c 'echo welcome >/etc/motd; rm /etc/issue'
overcoat boot -p examples/netboot/overcoat.yml --time-out 900 discovery "$work/motd.cpio.zst" --run '
  set -ex
  systemctl is-active multi-user.target lldpd.service discovery.service
  test -s /etc/discovery/discovery.conf
  grep welcome /etc/motd
  test ! -e /etc/issue
  modinfo -F vermagic squashfs
  findmnt -no FSTYPE /'

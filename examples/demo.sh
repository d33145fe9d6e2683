#!/bin/bash
# The script of `make demo`: builds examples/netboot and runs a command in a base with an overlay,
# without root. As root, it continues as an unprivileged user.
#
#     examples/demo.sh target/release/overcoat [boot]
#
# `boot` also boots the discovery overlay (gzip) in QEMU, with a second overlay (zstd) on it.
set -euo pipefail
program=$(realpath "$1")
boot=${2:-}
cd "$(dirname "$0")/.."

if [[ $(id -u) = 0 ]]; then
  user=${OVERCOAT_TEST_USER:-overcoat-test}
  as_user() { runuser -u "$user" -- "$@"; }
  if as_user test -r "$PWD/examples/netboot/overcoat.yml" && as_user test -x "$program"; then
    checkout=$PWD
    install -d build
    install -d -o "$user" build/netboot
  else
    # The user cannot read the checkout: use a copy.
    checkout=$(as_user mktemp -d /var/tmp/overcoat-demo.XXXXXX)
    trap 'rm -rf "$checkout"' EXIT
    install -d -o "$user" "$checkout/build"
    cp -r examples "$checkout/"
    cp "$program" "$checkout/overcoat"
    [[ -d build/netboot ]] && cp -rp build/netboot "$checkout/build/"
    chown -R "$user" "$checkout/build"
    chmod -R a+rX "$checkout"
    program=$checkout/overcoat
  fi
  echo "Running the demo as the unprivileged user $user."
  as_user env HOME="$(getent passwd "$user" | cut -d: -f6)" "$checkout/examples/demo.sh" "$program" "$boot"
  if [[ $checkout != "$PWD" ]]; then
    install -d build
    cp -rp "$checkout/build/netboot" build/
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
  printf '\nTo boot it in QEMU (packages qemu-system-x86 and ipxe-qemu):\n'
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

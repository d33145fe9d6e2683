#!/bin/bash
# Prepares a Debian machine: `machine.sh build`, followed by any of `demo`, `test`, `boots`, `fuzz`,
# `deb`, `containers`.
#
# As root it installs the missing packages. As another user it prints the commands that root has to run,
# and runs them through sudo if that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

user=${OVERCOAT_TEST_USER:-overcoat-test}
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
root=false
[[ $(id -u) = 0 ]] && root=true

# PACKAGE:NEEDED, where NEEDED is a program or the path of a file.
need=()
for purpose in "$@"; do
  case $purpose in
    build) need+=(gcc:cc libc6-dev:/usr/include/stdio.h g++:c++ make:make) ;;
    demo) need+=(mmdebstrap:mmdebstrap squashfs-tools:mksquashfs uidmap:newuidmap
      fuse3:fusermount3 cpio:cpio gzip:gzip ca-certificates:/etc/ssl/certs/ca-certificates.crt) ;;
    # tests/set-up.sh installs the other tools of the tests.
    test) need+=(zstd:zstd busybox-static:busybox strace:strace libarchive-tools:bsdtar dpkg-dev:dpkg-scanpackages
      attr:setfattr curl:curl chromium:chromium tmux:tmux ansible:ansible-playbook) ;;
    boots) need+=(qemu-system-x86:qemu-system-x86_64
      ipxe-qemu:/usr/lib/ipxe/qemu/efi-virtio.rom openssl:openssl) ;;
    fuzz) need+=(squashfs-tools:mksquashfs cpio:cpio gzip:gzip zstd:zstd attr:setfattr) ;;
    containers) need+=(podman:podman runc:runc) ;;
    deb) need+=(debhelper:dh dpkg-dev:dpkg-shlibdeps lintian:lintian) ;;
    *) echo "$0: unknown purpose: $purpose" >&2; exit 2 ;;
  esac
done

missing=()
for pair in "${need[@]}"; do
  needed=${pair#*:}
  if [[ $needed = /* ]]; then [[ -e $needed ]]; else command -v "$needed" >/dev/null; fi ||
    missing+=("${pair%%:*}")
done

todo=()
if ((${#missing[@]})); then
  if $root; then
    echo "installing ${missing[*]}"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    todo+=("apt-get update && apt-get install -y --no-install-recommends ${missing[*]}")
  fi
fi

if ! command -v cargo >/dev/null; then
  echo "cargo is missing: install Rust from https://rustup.rs (Debian 12's version is too old)" >&2
  exit 1
fi

# Prints the first id above all ranges in /etc/subuid or /etc/subgid.
free_ids() {
  awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }' "/etc/sub$1"
}

if [[ " $* " = *" demo "* ]]; then
  if [[ ! -e /dev/fuse ]]; then
    if $root; then
      modprobe fuse 2>/dev/null || true
      [[ -e /dev/fuse ]] || mknod /dev/fuse c 10 229
    else
      todo+=("modprobe fuse || mknod /dev/fuse c 10 229")
    fi
  fi
  if [[ ! -r /dev/fuse || ! -w /dev/fuse ]] || $root; then
    if $root; then
      [[ $(stat -c %a /dev/fuse) = 666 ]] || chmod 666 /dev/fuse
    else
      todo+=("chmod 666 /dev/fuse")
    fi
  fi
  if $root; then
    # The unprivileged user of the demo and the tests.
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
    owner=$user
  else
    owner=$(id -un)
  fi
  for ids in uid gid; do
    grep -q -e "^$owner:" -e "^$(id -u "$owner"):" "/etc/sub$ids" 2>/dev/null && continue
    if $root; then
      touch "/etc/sub$ids"
      first=$(free_ids "$ids")
      usermod "--add-sub${ids}s" "$first-$((first + 65535))" "$owner"
    else
      first=$(free_ids "$ids" 2>/dev/null || echo 100000)
      todo+=("usermod --add-sub${ids}s $first-$((first + 65535)) $owner")
    fi
  done
fi

if [[ " $* " = *" test "* && -x tests/set-up.sh ]]; then
  if $root; then
    tests/set-up.sh
  elif [[ -z ${OVERCOAT_LAB:-} && ! -s build/lab/repo/Packages ]]; then
    todo+=("$PWD/tests/set-up.sh")
  fi
fi

if [[ " $* " = *" fuzz "* ]] && ! cargo fuzz --version >/dev/null 2>&1; then
  echo 'installing cargo-fuzz'
  cargo install --quiet --locked cargo-fuzz
fi

((${#todo[@]})) || exit 0
echo 'This machine is not prepared. Commands to run as root:' >&2
printf '  %s\n' "${todo[@]}" >&2
if ! command -v sudo >/dev/null || [[ ${OVERCOAT_SUDO:-} ]]; then
  exit 1
fi
echo 'Running them through sudo.' >&2
for command in "${todo[@]}"; do
  sudo DEBIAN_FRONTEND=noninteractive sh -euc "$command"
done
# Checks again. Commands that did not help are printed instead of run twice.
OVERCOAT_SUDO=done exec "$0" "$@"

#!/bin/bash
# Prepares a machine for the tests, as root. It keeps what exists already:
#   - the tools that the tests run and compare with,
#   - /dev/fuse with access for all users, and an unprivileged user with subordinate ids,
#   - the lab (build/lab, or $OVERCOAT_LAB): a Debian base as tar, squashfs with gzip and squashfs
#     with zstd, and an apt repository with the packages of provisioners/library. The repository is
#     created again if the list of packages has changed.
# The first run takes about two minutes, mostly for downloads.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
lab=${OVERCOAT_LAB:-$here/build/lab}
user=overcoat-test
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

tools=(
  apt-utils busybox-static ca-certificates cpio dpkg-dev fish fuse3 groff-base gzip kmod
  libarchive-tools man-db mmdebstrap pigz python3 squashfs-tools strace systemd uidmap util-linux xz-utils zsh zstd
)
packages=(
  # discovery
  dmidecode lshw lsscsi pciutils ethtool smartmontools lldpd hdparm ipmitool openssh-server
  # debian-base
  systemd-sysv systemd-resolved dbus udev kmod netbase iproute2 iputils-ping curl
  # raid-tools, secure-erase
  mdadm sg3-utils nvme-cli sdparm cciss-vol-status
  # initrd
  linux-image-cloud-amd64 initramfs-tools zstd busybox
  # services that must not start, a boot loader that must not be set up
  cron puppet-agent grub2-common
)

[[ $(id -u) = 0 ]] || { echo "$0: run it as root" >&2; exit 1; }

installed() { dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>/dev/null | grep -cx installed || :; }
if [[ $(installed "${tools[@]}") != "${#tools[@]}" ]]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${tools[@]}" >/dev/null
fi

[[ -e /dev/fuse ]] || mknod /dev/fuse c 10 229
chmod 666 /dev/fuse

id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$user"
for ids in uid gid; do
  # Use the ids above all existing ranges.
  if ! grep -q "^$user:" "/etc/sub$ids"; then
    first=$(awk -F: 'BEGIN { n = 100000 } $2 + $3 > n { n = $2 + $3 } END { print n }' "/etc/sub$ids")
    usermod "--add-sub${ids}s" "$first-$((first + 65535))" "$user"
  fi
done

# Each file appears complete or not at all.
mkdir -p "$lab"
cd "$lab"
work=$(mktemp -d ./set-up.XXXXXX)
trap 'rm -rf "$lab/$work"' EXIT
if [[ ! -s base.tar ]]; then
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3-minimal,python3-apt \
    bookworm "$work/base.tar"
  mv "$work/base.tar" .
fi
for kind in gz.squashfs:gzip squashfs:zstd; do
  image=base.${kind%:*}
  if [[ ! -s $image ]]; then
    sqfstar -quiet -no-progress -comp "${kind#*:}" "$work/$image" <base.tar
    mv "$work/$image" .
  fi
done
if [[ ! -s repo/Packages || $(cat repo/list 2>/dev/null) != "${packages[*]}" ]]; then
  mkdir "$work/root" "$work/repo"
  tar xf base.tar -C "$work/root"
  # The root uses the host's name servers, proxies and certificates.
  cp -L /etc/resolv.conf "$work/root/etc/"
  apt-config dump | grep -E '^Acquire::(http|https)::(Proxy|CaInfo) ' \
    >"$work/root/etc/apt/apt.conf.d/99host" || :
  if [[ -s /etc/ssl/certs/ca-certificates.crt ]]; then
    cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  fi
  chroot "$work/root" apt-get update -qq
  chroot "$work/root" apt-get install -y -qq --no-install-recommends --download-only \
    "${packages[@]}" >/dev/null
  cp "$work"/root/var/cache/apt/archives/*.deb "$work/repo/"
  (cd "$work/repo" && dpkg-scanpackages -m . 2>/dev/null >Packages)
  echo "${packages[*]}" >"$work/repo/list"
  rm -rf repo
  mv "$work/repo" .
fi
chmod -R a+rX .
echo "ready: user $user, lab $lab with $(ls repo/*.deb | wc -l) packages"

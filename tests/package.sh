#!/bin/bash
# Tests the files of a release: `package.sh PROGRAM PACKAGE STATIC`. It installs, upgrades and purges
# the Debian package in the base of examples/netboot, and uses it on a machine that boots this base.
# It runs the static program in a root with busybox alone. Needs the artifacts of `make demo`,
# lintian and podman, and root.
set -euo pipefail
program=$(realpath "$1") package=$(realpath "$2") static=$(realpath "$3")
cd "$(dirname "$0")/.."
netboot=build/netboot
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() { printf '\n===== %s\n' "$*"; }

step lintian
lintian --allow-root --fail-on error,warning "$package"

mkdir "$work/packages"
cp "$package" "$work/packages/overcoat.deb"
dpkg-deb --raw-extract "$package" "$work/newer"
sed -i 's/^Version: .*/&+1/' "$work/newer/DEBIAN/control"
echo '# A newer line.' >>"$work/newer/etc/default/overcoat-serve"
dpkg-deb --root-owner-group --build "$work/newer" "$work/packages/newer.deb" >/dev/null

step 'a root with busybox alone'
mkdir -p "$work"/alone/{bin,dev,img,proc,tmp}
chmod 1777 "$work/alone/tmp"
cp "$static" "$work/alone/bin/overcoat"
cp "$(command -v busybox)" "$work/alone/bin/busybox"
cp "$netboot/base.squashfs" "$work/alone/img/"
podman=(podman --root "$work/storage" --runroot "$work/run" --storage-driver vfs --runtime runc)
tar -C "$work/alone" -c . | "${podman[@]}" import --quiet - overcoat-alone
alone() {
  "${podman[@]}" run --rm --network host --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 \
    --device /dev/fuse --security-opt seccomp=unconfined --user 1234:1234 \
    --env SOURCE_DATE_EPOCH=1700000000 overcoat-alone "$@"
}
alone /bin/overcoat doctor
alone /bin/overcoat ls -l /img/base.squashfs :/etc
alone /bin/overcoat run /img/base.squashfs --save /tmp/x.cpio.gz -- sh -c 'chown 5:7 /srv; id'
"${podman[@]}" rmi --force overcoat-alone >/dev/null

step 'install, upgrade, remove and purge'
cat >"$work/packages/life.sh" <<'SCRIPT'
set -eux
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Its dependencies stay.
apt-get install -qq -y --no-install-recommends ucf fuse3 uidmap >/dev/null
# As with AppArmor 4.
mkdir -p /etc/apparmor.d/abi
touch /etc/apparmor.d/abi/4.0
state() {
  find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp \
    -o -path /var/log -o -path /var/cache -o -path /packages -o -path '/var/lib/dpkg/*-old' \
    -o -path '/etc/*-' -o -path '/var/lib/ucf/*' \) -prune -o -printf '%p %y %m %U:%G %l\n' |
    LC_ALL=C sort
  getent passwd
  getent group
  dpkg-query -W
}
state >/tmp/before

apt-get install -qq -y --no-install-recommends /packages/overcoat.deb >/dev/null
overcoat --version
test -x /usr/sbin/mount.fuse.overcoat
id overcoat
test -s /etc/apparmor.d/overcoat
test ! -e /etc/systemd/system/multi-user.target.wants/overcoat-serve.service
systemd-analyze verify --man=no overcoat-serve.service
bash -ec '. /usr/share/bash-completion/completions/overcoat; complete -p overcoat'

# Changes of the administrator stay.
echo 'PROJECT=/srv/other' >>/etc/default/overcoat-serve
echo '# local' >>/etc/apparmor.d/overcoat
apt-get install -qq -y --no-install-recommends -o Dpkg::Options::=--force-confold /packages/newer.deb >/dev/null
dpkg-query -W -f '${Version}\n' overcoat | grep -x '.*+1'
grep -x PROJECT=/srv/other /etc/default/overcoat-serve
grep -x '# local' /etc/apparmor.d/overcoat

apt-get remove -qq -y overcoat >/dev/null
test ! -e /usr/bin/overcoat
test -e /etc/default/overcoat-serve
apt-get purge -qq -y overcoat >/dev/null
state >/tmp/after
diff /tmp/before /tmp/after
SCRIPT
"$program" run --bind "$work/packages:/packages:ro" "$netboot/base.squashfs" -- sh /packages/life.sh

step 'use on a machine'
"$program" run --bind "$work/packages:/packages:ro" "$netboot/base.squashfs" \
  --save "$work/installed.cpio.gz" -- sh -euxc '
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends /packages/overcoat.deb fuse3 uidmap busybox-static >/dev/null
    useradd --create-home admin
    apt-get clean'
# The kernel of the machine needs the module fuse.
cat >"$work/initrd.yml" <<EOF
kind: initrd
output: .
base: $PWD/$netboot/base.squashfs
provisioner: library:initrd
variables:
  modules: [squashfs, overlay, loop, virtio_net, virtio_pci, virtio_blk, fuse]
yields:
  vmlinuz: /boot/vmlinuz-*
  initrd.img: /boot/initrd.img-*
EOF
"$program" build "$work/initrd.yml"
"$program" boot -p examples/netboot/overcoat.yml --time-out 900 "$work/installed.cpio.gz" \
  --kernel "$work/vmlinuz" --initrd "$work/initrd.img" --run '
  set -ex
  modprobe fuse
  runuser -u admin -- overcoat doctor
  install -d -o admin /srv/overcoat/root/bin
  cp /bin/busybox /srv/overcoat/root/bin/
  cd /srv/overcoat
  cat >overcoat.yml <<EOF
output: out
images:
  base: {kind: base, from: root, output: base.tar}
  hello: {base: base, provisioner: hello}
EOF
  mkdir hello
  echo "scripts: [run]" >hello/provisioner.yml
  printf "#!/bin/busybox sh\necho hello >/hello\n" >hello/run
  chown -R admin .
  runuser -u admin -- overcoat build
  runuser -u admin -- overcoat run base hello -- /bin/busybox cat /hello | grep -x hello
  systemctl start overcoat-serve
  curl -fsS --retry 60 --retry-delay 1 --retry-connrefused http://127.0.0.1:8080/index.json -o /tmp/index
  grep hello /tmp/index
  systemctl is-active overcoat-serve
  ps -o user= -C overcoat | grep overcoat
  apt-get purge -qq -y overcoat
  if pgrep overcoat; then exit 1; fi
  test ! -e /usr/bin/overcoat'
step 'passed'

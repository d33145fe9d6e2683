#!/bin/bash
# Compares what builders without root keep of owners, modes, devices and capabilities: the table of
# docs/PERFORMANCE.md. The same provisioner runs with overcoat at each privilege, charliecloud,
# buildah and fakechroot, and each result is compared with that of real root in a chroot.
#
# Must run as root. Requires the lab of `make test`, the network for charliecloud, and Debian's
# packages charliecloud, python3-lark, python3-requests, buildah, fakechroot, fakeroot and fuse3.
#
# Environment: OVERCOAT (the program, release build), OVERCOAT_LAB (base and packages), BENCH_USER
# (an unprivileged user with subordinate ids), VERBOSE (print the first differences).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
OVERCOAT=$(realpath "${OVERCOAT:-target/release/overcoat}")
LAB=$(realpath "${OVERCOAT_LAB:-build/lab}")
BENCH_USER=${BENCH_USER:-overcoat-test}
[[ $(id -u) = 0 ]] || { echo "owners.sh: run as root" >&2; exit 2; }
id "$BENCH_USER" >/dev/null
# A user without subordinate ids.
SINGLE=overcoat-bench
W=$(mktemp -d /tmp/overcoat-bench.XXXXXX)
finish() {
  if mountpoint -q "$W/real/repo"; then umount "$W/real/repo"; fi
  if mountpoint -q "$W/real/proc"; then umount "$W/real/proc"; fi
  if mountpoint -q "$W/repo"; then umount "$W/repo"; fi
  rm -rf "$W"
  userdel --remove "$SINGLE" 2>/dev/null || true
}
trap finish EXIT
useradd --create-home "$SINGLE"
sed -i "/^$SINGLE:/d" /etc/subuid /etc/subgid
chmod 755 "$W"
cp "$OVERCOAT" "$W/overcoat"
mkdir "$W/repo"
mount --bind "$LAB/repo" "$W/repo"
for user in root "$BENCH_USER" "$SINGLE"; do install -d -o "$user" "$W/$user"; done

cat >"$W/provision.sh" <<'S'
set -e
echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
apt-get update -qq
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq --no-install-recommends dbus openssh-server lldpd cron iputils-ping \
  libcap2-bin uuid-runtime
useradd -m -u 2000 site
install -d -o site -g adm -m 2750 /srv/site
su site -c 'echo >/srv/site/own'
mknod /srv/disk b 8 1
chown 200001:200002 /srv/disk
cp /bin/true /usr/local/bin/tool
chown root:adm /usr/local/bin/tool
chmod 4750 /usr/local/bin/tool
cp /bin/true /usr/local/bin/raw
setcap cap_net_raw+ep /usr/local/bin/raw
S
chmod 644 "$W/provision.sh"

cat >"$W/compare.py" <<'S'
"""Compares the tree of a tar archive with that of real root."""
import sys, tarfile

SKIP = ("dev", "proc", "sys", "run", "tmp", "repo", "ch", "var/cache", "var/log", "var/lib/apt")
CAPABILITY = "SCHILY.xattr.security.capability"

def read(path):
    tree = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./").strip("/")
            if any(name == skip or name.startswith(skip + "/") for skip in SKIP):
                continue
            if member.islnk():
                target = tree.get(member.linkname.removeprefix("./").strip("/"))
                if target:
                    tree[name] = target
                continue
            device = (member.devmajor, member.devminor) if member.isblk() or member.ischr() else None
            kind = "file" if member.isfile() else member.type
            tree[name] = {
                "kind": kind, "owner": (member.uid, member.gid), "device": device,
                "mode": None if member.issym() else member.mode & 0o7777,
                "capability": member.pax_headers.get(CAPABILITY),
            }
    return tree

expected, found = read(sys.argv[1]), read(sys.argv[2])
wrong = dict.fromkeys(("owner", "mode", "device", "capability", "missing"), 0)
for name, node in expected.items():
    other = found.get(name)
    if node["device"]:
        wrong["device"] += other is None or other["device"] != node["device"]
    if other is None:
        wrong["missing"] += node["device"] is None
        continue
    for key in ("owner", "mode", "capability"):
        if node[key] != other[key]:
            wrong[key] += 1
            print(key, name, node[key], other[key], file=sys.stderr)
print(len(expected), *wrong.values())
S

as() { # as USER COMMAND…
  local user=$1
  shift
  setpriv --reuid "$user" --regid "$user" --init-groups --reset-env \
    env PATH="$PATH" USER="$user" HOME="$W/$user" TMPDIR="$W/$user" "$@"
}
overcoat() { # overcoat USER PRIVILEGE
  as "$1" "$W/overcoat" run --privilege "$2" --bind "$W/repo:/repo:ro" \
    --bind "$W/provision.sh:/provision.sh:ro" "$LAB/base.tar" \
    --save "$W/$1/x.tar" -- sh /provision.sh
  as "$1" "$W/overcoat" extract "$LAB/base.tar" "$W/$1/x.tar" -o "$W/$1/out.tar"
  mv "$W/$1/out.tar" "$W/out.tar"
}
real() {
  mkdir "$W/real"
  tar -C "$W/real" --numeric-owner --xattrs --xattrs-include='*' -xpf "$LAB/base.tar"
  mkdir -p "$W/real/repo"
  mount --bind "$LAB/repo" "$W/real/repo"
  mount -t proc proc "$W/real/proc"
  printf '#!/bin/sh\nexit 101\n' >"$W/real/usr/sbin/policy-rc.d"
  chmod 755 "$W/real/usr/sbin/policy-rc.d"
  chroot "$W/real" sh -s <"$W/provision.sh"
  rm "$W/real/usr/sbin/policy-rc.d"
  umount "$W/real/proc" "$W/real/repo"
  tar -C "$W/real" --numeric-owner --xattrs --xattrs-include='security.capability' -cf "$W/out.tar" .
}
charliecloud() {
  local dir=$W/$SINGLE
  cp "$W/provision.sh" "$dir/"
  # ch-image wraps commands that contain `apt-get` in fakeroot, which it installs in the image.
  printf 'FROM base\nCOPY provision.sh /provision.sh\nRUN apt-get --version && sh /provision.sh\n' \
    >"$dir/Dockerfile"
  as "$SINGLE" env CH_IMAGE_STORAGE="$dir/ch" ch-image import --no-cache "$LAB/base.tar" base
  as "$SINGLE" env CH_IMAGE_STORAGE="$dir/ch" ch-image build --force --no-cache --tag out \
    --bind "$W/repo:/repo" --file "$dir/Dockerfile" "$dir"
  as "$SINGLE" env CH_IMAGE_STORAGE="$dir/ch" ch-convert -i ch-image -o tar out "$dir/out.tar.gz"
  gzip -dc "$dir/out.tar.gz" >"$W/out.tar"
}
buildah_() {
  local dir=$W/$SINGLE
  as "$SINGLE" mkdir -p "$dir/run"
  as "$SINGLE" env XDG_RUNTIME_DIR="$dir/run" sh -ec "
    bud() { buildah --root $dir/storage --runroot $dir/run --storage-driver vfs \
      --storage-opt vfs.ignore_chown_errors=true \"\$@\"; }
    container=\$(bud from docker-archive:$W/base-image.tar)
    bud run --isolation rootless --runtime runc --network host --volume $W/repo:/repo:ro \
      --volume $W/provision.sh:/provision.sh:ro \$container -- sh -c \
      'echo \"APT::Sandbox::User root;\" >/etc/apt/apt.conf.d/sandbox; sh /provision.sh'
    bud commit \$container docker-archive:$dir/image.tar
    mkdir -p $dir/flat"
  as "$SINGLE" sh -ec "cd $dir/flat; tar xf ../image.tar; python3 - <<'S'
import json
layers = json.load(open('manifest.json'))[0]['Layers']
print('\n'.join(layers))
S" >"$W/layers"
  # Later layers replace entries of earlier ones.
  python3 - "$dir/flat" "$W/layers" "$W/out.tar" <<'S'
import sys, tarfile
with tarfile.open(sys.argv[3], "w", format=tarfile.PAX_FORMAT) as out:
    for layer in open(sys.argv[2]).read().split():
        with tarfile.open(f"{sys.argv[1]}/{layer}") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                out.addfile(member, content)
S
}
fakechroot_() {
  local dir=$W/$SINGLE
  as "$SINGLE" env -u TMPDIR sh -ec "
    mkdir -p $dir/fake; touch $dir/state
    fakeroot -s $dir/state tar -C $dir/fake --exclude='./dev/*' -xpf $LAB/base.tar
    mkdir -p $dir/fake/repo; cp $W/repo/* $dir/fake/repo/; cp $W/provision.sh $dir/fake/
    fakechroot fakeroot -i $dir/state -s $dir/state chroot $dir/fake sh /provision.sh
    rm -r $dir/fake/repo
    fakeroot -i $dir/state tar -C $dir/fake --numeric-owner -cf $dir/out.tar ."
  mv "$dir/out.tar" "$W/out.tar"
}

row() { # row NAME COMMAND…
  local name=$1 start end result status=0
  shift
  rm -f "$W/out.tar"
  start=$(date +%s%N)
  # In a shell of its own, because `set -e` does not apply to a tested command.
  bash -euo pipefail -c '"$@"' bash "$@" >"$W/log" 2>&1 || status=$?
  end=$(date +%s%N)
  if [[ $status != 0 ]]; then
    echo "| $name | fails: $(grep -m 1 -e '^chown: ' -e '^error: ' "$W/log" || tail -n 1 "$W/log") | | | | | |"
    if [[ ${VERBOSE:-} ]]; then tail -n 30 "$W/log" >&2; fi
    return
  fi
  if [[ $name = 'real root' ]]; then cp "$W/out.tar" "$W/expected.tar"; fi
  read -r all owner mode device capability missing \
    < <(python3 "$W/compare.py" "$W/expected.tar" "$W/out.tar" 2>"$W/differences")
  if [[ ${VERBOSE:-} ]]; then head -n 20 "$W/differences" >&2; fi
  awk -v n="$name" -v s="$((end - start))" -v r="$owner | $mode | $device | $capability | $missing" \
    'BEGIN {printf "| %s | %s | %.1f |\n", n, r, s / 1e9}'
}

# Only root can make an image of the base that has its owners. buildah's user pulls it.
{
  images=(buildah --root "$W/storage" --runroot "$W/run" --storage-driver vfs)
  container=$("${images[@]}" from scratch)
  "${images[@]}" add "$container" "$LAB/base.tar" /
  "${images[@]}" commit --rm "$container" "docker-archive:$W/base-image.tar"
} >/dev/null 2>&1
chmod 644 "$W/base-image.tar"

export W LAB SINGLE
export -f as overcoat real charliecloud buildah_ fakechroot_
echo '| builder | wrong owners | wrong modes | wrong devices | wrong capabilities | missing paths | seconds |'
echo '|---|---|---|---|---|---|---|'
row 'real root' real
row 'overcoat, `root`' overcoat root root
row 'overcoat, `subordinate`' overcoat "$BENCH_USER" subordinate
row 'overcoat, `none`' overcoat "$SINGLE" none
row "charliecloud $(USER=root ch-image --version)" charliecloud
row "buildah $(buildah --version | cut -d ' ' -f 3), \`ignore_chown_errors\`" buildah_
row 'fakechroot and fakeroot' fakechroot_

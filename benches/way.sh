#!/bin/bash
# Measures single operations through a mount, beside tmpfs, kernel overlayfs on tmpfs and
# fuse-overlayfs: the second table of docs/PERFORMANCE.md, and the FUSE requests of each operation.
# Must run as root. Requires the lab of `make test` or tests/set-up.sh, and an idle machine.
#
#   benches/way.sh [ROUNDS]             (default 5; prints the median of the rounds)
#
# Environment: OVERCOAT and WAY (release builds), OVERCOAT_LAB.
set -euo pipefail
cd "$(dirname "$0")/.."
OVERCOAT=$(realpath "${OVERCOAT:-target/release/overcoat}")
LAB=$(realpath "${OVERCOAT_LAB:-build/lab}")
[[ $(id -u) = 0 ]] || { echo "way.sh: run as root: the peers mount squashfs" >&2; exit 2; }
command -v fuse-overlayfs >/dev/null || { echo "way.sh: fuse-overlayfs is missing" >&2; exit 2; }
WAY=${WAY:-$(cargo bench --locked --bench way --no-run 2>&1 | sed -n 's/.*(\(.*way-[^)]*\)).*/\1/p')}
W=$(mktemp -d /tmp/overcoat-way.XXXXXX)
sandbox=
finish() {
  [[ -z $sandbox ]] || kill "$sandbox" 2>/dev/null || :
  for mount in fuse kernel ours base tmp; do umount -l "$W/$mount" 2>/dev/null || :; done
  rm -rf "$W"
}
trap finish EXIT
mkdir "$W"/{tmp,base,kernel,fuse,ours}
mount -t tmpfs -o size=4G none "$W/tmp"
mount -t squashfs -o loop,ro "$LAB/base.gz.squashfs" "$W/base"
mkdir "$W"/tmp/{plain,kernel-upper,kernel-work,fuse-upper,fuse-work}
mount -t overlay -o "lowerdir=$W/base,upperdir=$W/tmp/kernel-upper,workdir=$W/tmp/kernel-work" none "$W/kernel"
fuse-overlayfs -o "lowerdir=$W/base,upperdir=$W/tmp/fuse-upper,workdir=$W/tmp/fuse-work" "$W/fuse"
"$OVERCOAT" mount --rw "$LAB/base.gz.squashfs" "$W/ours"

# The root of a build is in its own mount namespace, and is accessed through a process in it.
mkfifo "$W/pid"
"$OVERCOAT" run --bind "$W/pid:/pid" "$LAB/base.gz.squashfs" -- sh -c 'echo ready >/pid; exec sleep 100000' &
sandbox=$!
read -r _ <"$W/pid"
inside=$(pgrep -f '^sleep 100000$' | tail -1)
build=/proc/$inside/root

python3 - "$W/tmp/files.tar" <<'P'
import io, random, sys, tarfile
random.seed(1)
with tarfile.open(sys.argv[1], "w") as tar:
    for n in range(20_000):
        info = tarfile.TarInfo(f"d{n // 100}/file-{n}")
        info.size = random.randrange(100, 8000)
        tar.addfile(info, io.BytesIO(bytes(info.size)))
P
export WAY_TAR=$W/tmp/files.tar
places=("build=$build/root" "kernel overlayfs=$W/kernel/root" "fuse-overlayfs=$W/fuse/root"
  "tmpfs=$W/tmp/plain" "overcoat mount=$W/ours/root")
echo "# ${1:-5} rounds, median; $(nproc) processors, Linux $(uname -r)"
"$WAY" "${1:-5}" "${places[@]}"
echo
echo '# Requests: a build without extended attributes'
"$WAY" --count "$build/root"
echo
echo '# Requests: overcoat mount, with extended attributes'
"$WAY" --count "$W/ours/root"

#!/bin/bash
# Performs the main job with alternatives to overcoat, for comparison:
#   kernel          as root: kernel squashfs + overlayfs on tmpfs, find | cpio | gzip
#   kernel-pigz     as root: the same, sorted, with pigz
#   userns          rootless: squashfuse + kernel overlayfs in a user namespace, cpio | pigz
#   fuse-overlayfs  rootless: squashfuse + fuse-overlayfs, cpio | pigz
# Usage: peer-overlay.sh MODE, with LAB (see tests/set-up.sh), BASE, OUT and SCRIPT as variables.
# Prints: MODE seconds-to-provision seconds-to-archive seconds-in-total bytes
set -euo pipefail
: "${LAB:?}" "${BASE:?}" "${OUT:?}" "${SCRIPT:?}"
MODE=$1
export LAB BASE OUT SCRIPT MODE DEBIAN_FRONTEND=noninteractive LC_ALL=C

inner() {
  set -euo pipefail
  now() { date +%s.%N; }
  W=$(mktemp -d "${TMPDIR:-/tmp}/peer.XXXXXX")
  t0=$(now)
  mkdir "$W"/{lower,tmp,root}
  mount -t tmpfs tmpfs "$W/tmp"
  mkdir "$W"/tmp/{upper,work}
  case $MODE in
    kernel*) mount -t squashfs -o loop,ro "$BASE" "$W/lower" ;;
    *) squashfuse_ll -o allow_other "$BASE" "$W/lower" 2>/dev/null || squashfuse "$BASE" "$W/lower" ;;
  esac
  layers="lowerdir=$W/lower,upperdir=$W/tmp/upper,workdir=$W/tmp/work"
  case $MODE in
    kernel*) mount -t overlay overlay -o "$layers" "$W/root" ;;
    userns) mount -t overlay overlay -o "userxattr,$layers" "$W/root" ;;
    fuse-overlayfs) fuse-overlayfs -o "$layers" "$W/root" ;;
  esac
  mount --rbind /dev "$W/root/dev"
  mount -t proc proc "$W/root/proc" 2>/dev/null || mount --rbind /proc "$W/root/proc"
  mkdir -p "$W/root/repo"
  mount --bind "$LAB/repo" "$W/root/repo"
  printf '#!/bin/sh\nexit 101\n' >"$W/root/usr/sbin/policy-rc.d"
  chmod +x "$W/root/usr/sbin/policy-rc.d"
  t1=$(now)
  chroot "$W/root" /bin/sh -e <"$SCRIPT" >"$W/tmp/log" 2>&1 || { tail -20 "$W/tmp/log"; exit 1; }
  rm "$W/root/usr/sbin/policy-rc.d"
  t2=$(now)
  umount -l "$W/root/repo"; rmdir "$W/root/repo"; umount -l "$W/root/proc"; umount -l "$W/root/dev"
  cd "$W/tmp/upper"
  case $MODE in
    kernel) find . | cpio --quiet -H newc -o | gzip >"$OUT" ;;
    *) find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -H newc -o | pigz >"$OUT" ;;
  esac
  t3=$(now)
  cd /
  umount -l "$W/root" "$W/lower" "$W/tmp"
  rmdir "$W"/* "$W"
  echo "$MODE $t0 $t1 $t2 $t3 $(stat -c %s "$OUT")" |
    awk '{printf "%s %.3f %.3f %.3f %d\n", $1, $4-$3, $5-$4, $5-$2, $6}'
}

case $MODE in
  kernel*) inner ;;
  *) export -f inner; unshare --user --map-auto --map-root-user --mount --pid --fork --kill-child bash -c inner ;;
esac

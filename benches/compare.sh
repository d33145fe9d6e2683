#!/bin/bash
# Compares overcoat with its alternatives on one machine: the tables of docs/PERFORMANCE.md. Must
# run as root, which the kernel mounts need; the rootless alternatives and overcoat run as an
# unprivileged user. Requires the lab of `make test` or tests/set-up.sh, and an idle machine.
#
#   benches/compare.sh [ROUNDS]         (default 5; prints the median of the rounds)
#
# Environment: OVERCOAT (the program, release build), OVERCOAT_LAB (base and packages),
# BENCH_USER (an unprivileged user with subordinate ids).
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${1:-5}
OVERCOAT=$(realpath "${OVERCOAT:-target/release/overcoat}")
LAB=$(realpath "${OVERCOAT_LAB:-build/lab}")
BENCH_USER=${BENCH_USER:-overcoat-test}
[[ $(id -u) = 0 ]] || { echo "compare.sh: run as root: the peers mount squashfs" >&2; exit 2; }
for tool in pigz squashfuse fuse-overlayfs cpio mksquashfs setpriv; do
  command -v "$tool" >/dev/null || { echo "compare.sh: $tool is missing" >&2; exit 2; }
done
id "$BENCH_USER" >/dev/null
W=$(mktemp -d /tmp/overcoat-bench.XXXXXX)
trap 'umount -l "$W"/mnt 2>/dev/null || :; rm -rf "$W"' EXIT
chmod 755 "$W"
mkdir "$W"/{mnt,user,results}
chown "$BENCH_USER" "$W/user"
cp "$OVERCOAT" "$W/overcoat"
export LAB W BASE="$LAB/base.gz.squashfs" ROUNDS
as_user() { setpriv --reuid "$BENCH_USER" --regid "$BENCH_USER" --init-groups --reset-env env PATH=/usr/sbin:/usr/bin:/sbin:/bin LAB="$LAB" W="$W" BASE="$BASE" "$@"; }

# The script that runs in each root.
cat >"$W/script" <<'S'
echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*
apt-get -o APT::Sandbox::User=root update -qq
apt-get -o APT::Sandbox::User=root install -y -qq --no-install-recommends \
  dmidecode lshw lsscsi pciutils ethtool smartmontools lldpd hdparm ipmitool
apt-get clean; rm -rf /var/lib/apt/lists/*
S
chmod 644 "$W/script"

# note NAME VALUE: one measurement.
note() { echo "$2" >>"$W/results/$1"; }
median() { sort -g "$W/results/$1" | awk '{v[NR]=$1} END {print (NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }
ratio() { awk -v a="$(median "$1")" -v b="$(median "$2")" 'BEGIN {printf "%.2f", a/b}'; }
seconds() { local s e; s=$(date +%s%N); "$@" >/dev/null; e=$(date +%s%N); awk -v d=$((e - s)) 'BEGIN {printf "%.3f\n", d/1e9}'; }
goal() { # goal WHAT RATIO LIMIT
  awk -v what="$1" -v r="$2" -v limit="$3" \
    'BEGIN {printf "| %s | %.2f | ≤ %.2f | %s |\n", what, r, limit, (r <= limit) ? "met" : "missed"}'
}

ours() { # the whole job as the unprivileged user; the time after the end of the script is for sealing
  local t0 t1 t2
  t0=$(date +%s.%N)
  as_user "$W/overcoat" run --bind "$LAB/repo:/repo:ro" --bind "$W/script:/script:ro" \
    --save "$W/user/ours.cpio.gz" --no-manifest "$BASE" -- \
    sh -e -c 'sh -e /script >/dev/null 2>&1; date +%s.%N' >"$W/user-end" 2>"$W/user-log" || { cat "$W/user-log"; exit 1; }
  t2=$(date +%s.%N)
  t1=$(cat "$W/user-end")
  note ours.provision "$(awk -v a="$t0" -v b="$t1" 'BEGIN {print b-a}')"
  note ours.archive "$(awk -v a="$t1" -v b="$t2" 'BEGIN {print b-a}')"
  note ours.total "$(awk -v a="$t0" -v b="$t2" 'BEGIN {print b-a}')"
  note ours.bytes "$(stat -c %s "$W/user/ours.cpio.gz")"
}
peer() { # peer MODE
  local line out="$W/user/$1.cpio.gz" run=()
  case $1 in kernel*) ;; *) run=(as_user) ;; esac
  line=$(OUT=$out SCRIPT=$W/script "${run[@]}" env OUT="$out" SCRIPT="$W/script" bash benches/peer-overlay.sh "$1" | tail -1)
  read -r _ provision archive total bytes <<<"$line"
  note "$1.provision" "$provision"; note "$1.archive" "$archive"; note "$1.total" "$total"; note "$1.bytes" "$bytes"
}

echo "# The whole job ($ROUNDS rounds, median; $(nproc) processors, Linux $(uname -r))"
for ((i = 0; i < ROUNDS; i++)); do
  ours; for mode in kernel kernel-pigz userns fuse-overlayfs; do peer "$mode"; done
done
echo "| way | root | provision, s | archive, s | total, s | MB | ours / this |"
echo "|---|---|---|---|---|---|---|"
row() { printf '| %s | %s | %.2f | %.2f | %.2f | %.2f | %s |\n' "$2" "$3" "$(median "$1.provision")" "$(median "$1.archive")" "$(median "$1.total")" "$(median "$1.bytes" | awk '{print $1/1e6}')" "$(ratio ours.total "$1.total")"; }
row ours overcoat no
row kernel "kernel squashfs + overlayfs, find \\| cpio \\| gzip" yes
row kernel-pigz "the same, sorted, with pigz" yes
row userns "squashfuse + kernel overlayfs in a user namespace, pigz" no
row fuse-overlayfs "squashfuse + fuse-overlayfs, pigz" no

echo; echo "# Sealing, the same tree"
# The tree with the changes of the job, and the same changes in a mount of overcoat.
mkdir "$W/tree"; mount -t tmpfs tmpfs "$W/tree"
(cd "$W/tree" && zcat "$W/user/ours.cpio.gz" | cpio --quiet -i 2>/dev/null)
peer_seal() { (cd "$W/tree" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -H newc -o | pigz >"$W/peer.cpio.gz"); }
"$W/overcoat" mount --rw "$BASE" "$W/mnt"
(cd "$W/mnt" && zcat "$W/user/ours.cpio.gz" | cpio --quiet -iu 2>/dev/null) || :
for ((i = 0; i < ROUNDS; i++)); do
  note seal.peer "$(seconds peer_seal)"
  note seal.ours "$(seconds "$W/overcoat" seal "$W/mnt" -o "$W/ours.cpio.gz" --no-manifest 2>/dev/null)"
done
"$W/overcoat" umount "$W/mnt"
umount "$W/tree"
printf '| overcoat seal | find \\| cpio \\| pigz | ratio |\n|---|---|---|\n| %.2f s, %d bytes | %.2f s, %d bytes | %s |\n' \
  "$(median seal.ours)" "$(stat -c %s "$W/ours.cpio.gz")" "$(median seal.peer)" "$(stat -c %s "$W/peer.cpio.gz")" "$(ratio seal.ours seal.peer)"

echo; echo "# Cold mounts of the base, the image itself in the page cache"
read_all() { (cd "$W/mnt" && find . -type f -print0 | xargs -0 cat >/dev/null); }
list_all() { find "$W/mnt" -ls; }
mount_kernel() { mount -t squashfs -o loop,ro "$1" "$W/mnt"; }
mount_ours() { "$W/overcoat" mount "$1" "$W/mnt"; }
mount_squashfuse() { squashfuse -o allow_other "$1" "$W/mnt"; }
mount_squashfuse_ll() { squashfuse_ll -o allow_other "$1" "$W/mnt"; }
unmount() { if [[ $1 = ours ]]; then "$W/overcoat" umount "$W/mnt"; else umount "$W/mnt"; fi; }
WAYS=(ours kernel squashfuse)
command -v squashfuse_ll >/dev/null && WAYS+=(squashfuse_ll)
echo "| image | what | overcoat | kernel | squashfuse | squashfuse_ll | / kernel | / squashfuse |"
echo "|---|---|---|---|---|---|---|---|"
for image in base.gz base; do
  cat "$LAB/$image.squashfs" >/dev/null
  for ((i = 0; i < ROUNDS; i++)); do
    for way in "${WAYS[@]}"; do
      for what in list_all read_all; do
        "mount_$way" "$LAB/$image.squashfs"
        note "$image.$what.$way" "$(seconds "$what")"
        unmount "$way"
      done
    done
  done
  for what in list_all read_all; do
    case $what in list_all) name="find -ls" ;; *) name="read every file" ;; esac
    printf '| %s | %s | %.2f | %.2f | %.2f | %s | %s | %s |\n' "$image.squashfs" "$name" \
      "$(median $image.$what.ours)" "$(median $image.$what.kernel)" "$(median $image.$what.squashfuse)" \
      "$( [[ " ${WAYS[*]} " = *squashfuse_ll* ]] && median $image.$what.squashfuse_ll || echo - )" \
      "$(ratio $image.$what.ours $image.$what.kernel)" "$(ratio $image.$what.ours $image.$what.squashfuse)"
  done
done

echo; echo "# Mounting, and memory"
mkdir "$W/many"
python3 - "$W/many" <<'P'
import os, sys
for d in range(1000):
    os.mkdir(f"{sys.argv[1]}/{d:04}")
    for f in range(500):
        open(f"{sys.argv[1]}/{d:04}/{f:04}", "w").close()
P
mksquashfs "$W/many" "$W/many.squashfs" -quiet -no-progress -no-duplicates >/dev/null
rm -rf "$W/many"
rss() { awk '/VmRSS/ {print $2/1024}' "/proc/$(pgrep -f "^$W/overcoat mount" | head -1)/status"; }
for image in "$LAB/base.gz.squashfs" "$W/many.squashfs"; do
  name=$(basename "$image")
  for ((i = 0; i < ROUNDS; i++)); do
    note "mount.$name" "$(seconds "$W/overcoat" mount "$image" "$W/mnt")"
    note "rss.$name" "$(rss)"
    "$W/overcoat" umount "$W/mnt"
  done
  printf '%s: mounted in %.0f ms, %.1f MiB resident\n' "$name" "$(median "mount.$name" | awk '{print $1*1000}')" "$(median "rss.$name")"
done
"$W/overcoat" mount --rw --upper-size 3G "$LAB/base.gz.squashfs" "$W/mnt"
before=$(rss)
head -c 1G /dev/zero | tr '\0' x >"$W/mnt/big"
after=$(rss)
"$W/overcoat" umount "$W/mnt"
upper=$(awk -v a="$before" -v b="$after" 'BEGIN {printf "%.2f", (b-a)/1024}')
echo "an upper of 1 GiB: $upper GiB resident"

echo; echo "# Goals"
echo "| goal | measured | limit | |"
echo "|---|---|---|---|"
goal "whole job / kernel, gzip, as root" "$(ratio ours.total kernel.total)" 0.65
goal "whole job / squashfuse + overlayfs in a user namespace, pigz" "$(ratio ours.total userns.total)" 0.85
goal "whole job / kernel, pigz, as root" "$(ratio ours.total kernel-pigz.total)" 0.90
goal "provisioning / kernel, as root" "$(ratio ours.provision kernel.provision)" 1.10
goal "sealing / find, cpio, pigz" "$(ratio seal.ours seal.peer)" 0.50
for image in base.gz base; do
  goal "reading every file, $image / kernel" "$(ratio $image.read_all.ours $image.read_all.kernel)" 0.80
  goal "reading every file, $image / squashfuse" "$(ratio $image.read_all.ours $image.read_all.squashfuse)" 0.40
  goal "find -ls, $image / kernel" "$(ratio $image.list_all.ours $image.list_all.kernel)" 1.30
  goal "find -ls, $image / squashfuse" "$(ratio $image.list_all.ours $image.list_all.squashfuse)" 0.25
done
goal "mount, 500,000 entries, s" "$(median mount.many.squashfs)" 0.03
goal "resident after mounting, 500,000 entries, / 10 MiB" "$(median rss.many.squashfs | awk '{print $1/10}')" 1.00
goal "an upper of 1 GiB, GiB" "$upper" 1.10

#!/bin/bash
# Compares the privileges of overcoat on one machine: the table of docs/PERFORMANCE.md. Must run as
# root. Requires the lab of `make test` or tests/set-up.sh, and an idle machine.
#
#   benches/privileges.sh [ROUNDS]      (default 5; prints the median of the rounds)
#
# Environment: OVERCOAT (the program, release build), OVERCOAT_LAB (base and packages), BENCH_USER
# (an unprivileged user with subordinate ids).
set -euo pipefail
cd "$(dirname "$0")/.."
ROUNDS=${1:-5}
OVERCOAT=$(realpath "${OVERCOAT:-target/release/overcoat}")
LAB=$(realpath "${OVERCOAT_LAB:-build/lab}")
BENCH_USER=${BENCH_USER:-overcoat-test}
[[ $(id -u) = 0 ]] || { echo "privileges.sh: run as root" >&2; exit 2; }
id "$BENCH_USER" >/dev/null
W=$(mktemp -d /tmp/overcoat-bench.XXXXXX)
trap 'rm -rf "$W"' EXIT
mkdir "$W/out"
chown "$BENCH_USER" "$W/out"
chmod 755 "$W"
cp "$OVERCOAT" "$W/overcoat"

# The jobs. Each is a script that runs in the root and prints its own time in seconds.
cat >"$W/discovery" <<'S'
echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list; rm -f /etc/apt/sources.list.d/*
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  dmidecode lshw lsscsi pciutils ethtool smartmontools lldpd hdparm ipmitool
S
cat >"$W/find" <<'S'
find / -xdev -ls
S
cat >"$W/stat" <<'S'
mkdir /srv/many; cd /srv/many; seq 20000 | xargs touch; ls -l >/dev/null; ls -l
S
# Like a configure script: many short programs.
cat >"$W/programs" <<'S'
for i in $(seq 300); do
  echo "$i" >/srv/conftest.c; test -f /srv/conftest.c && cat /srv/conftest.c | sed s/1/2/ >/srv/x; rm -f /srv/x
done
S
chmod 644 "$W"/{discovery,find,stat,programs}

run() { # run JOB PRIVILEGE: the seconds of the whole command
  local start end
  start=$(date +%s%N)
  setpriv --reuid "$BENCH_USER" --regid "$BENCH_USER" --init-groups --reset-env \
    env PATH=/usr/sbin:/usr/bin:/sbin:/bin "$W/overcoat" run --privilege "$2" \
    --bind "$LAB/repo:/repo:ro" --bind "$W/$1:/job:ro" "$LAB/base.gz.squashfs" -- \
    sh -e /job >/dev/null 2>"$W/log" || { cat "$W/log" >&2; exit 1; }
  end=$(date +%s%N)
  awk -v d=$((end - start)) 'BEGIN {printf "%.3f\n", d / 1e9}' >>"$W/$1.$2"
}
median() { sort -g "$1" | awk '{v[NR]=$1} END {print (NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }

for job in discovery find stat programs; do
  run "$job" subordinate
  rm "$W/$job.subordinate"
  for ((round = 0; round < ROUNDS; round++)); do
    run "$job" subordinate
    run "$job" none
  done
done
echo '| job | subordinate, s | none, s | ratio |'
echo '|---|---|---|---|'
for job in discovery find stat programs; do
  a=$(median "$W/$job.subordinate") b=$(median "$W/$job.none")
  awk -v j="$job" -v a="$a" -v b="$b" 'BEGIN {printf "| %s | %.2f | %.2f | %.2f |\n", j, a, b, b / a}'
done

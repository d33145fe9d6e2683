#!/bin/bash
# Compares `overcoat serve` with nginx on the same files over loopback: wrk with 1,000 connections
# requests a small file, an overlay, a base, and a range of it. The servers take turns, so that
# other load affects both. nginx runs with and without sendfile; the ratio is relative to the
# faster one.
#
#   benches/serve.sh [PROGRAM]      BENCH_SECONDS=5 for each measurement, ROUNDS=3, CONNECTIONS=1000
#
# Needs wrk and nginx (Debian: wrk, nginx-light).
set -euo pipefail
program=$(realpath "${1:-$(dirname "$0")/../target/release/overcoat}")
seconds=${BENCH_SECONDS:-5} rounds=${ROUNDS:-3} connections=${CONNECTIONS:-1000}
export PATH=$PATH:/usr/sbin LC_ALL=C
for tool in wrk nginx; do
  command -v "$tool" >/dev/null || { echo "$tool is missing: apt-get install wrk nginx-light" >&2; exit 1; }
done

ulimit -n "$(ulimit -Hn)"
work=$(mktemp -d "${TMPDIR:-/tmp}/serve.XXXXXX")
pids=()
finish() {
  ((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
  wait
  rm -rf "$work"
}
trap finish EXIT
chmod 755 "$work"
mkdir -p "$work"/{build,nginx,nothing}

# A project whose artifacts are random bytes, because their content is not used.
echo 'files: files' >"$work/nothing/provisioner.yml"
mkdir "$work/nothing/files"
cat >"$work/overcoat.yml" <<'Y'
images:
  base: {kind: base, release: bookworm, provisioner: nothing}
  overlay: {base: base, provisioner: nothing}
  small: {base: base, provisioner: nothing}
Y
head -c 4096 /dev/urandom >"$work/build/small.cpio.gz"
head -c 5M /dev/urandom >"$work/build/overlay.cpio.gz"
head -c 64M /dev/urandom >"$work/build/base.squashfs"

: >"$work/serve.log"
"$program" serve "$work" --listen 127.0.0.1:0 2>"$work/serve.log" &
ours=$!
pids+=("$ours")
until url=$(sed -n 's/.*listening on \(http:[^ ]*\)\/ .*/\1/p' "$work/serve.log") && [[ $url ]]; do
  kill -0 "$ours" || { cat "$work/serve.log" >&2; exit 1; }
done
port=$((20000 + RANDOM % 10000))
for sendfile in on off; do
  mkdir "$work/nginx/$sendfile"
  cat >"$work/nginx/$sendfile/nginx.conf" <<N
daemon off; worker_processes auto; worker_rlimit_nofile 16384; pid $work/nginx/$sendfile/pid;
error_log $work/nginx/$sendfile/log; $([[ $(id -u) = 0 ]] && echo 'user root;')
events { worker_connections 8192; }
http {
  access_log off; sendfile $sendfile; tcp_nopush on; output_buffers 2 256k; keepalive_requests 100000000;
  server { listen 127.0.0.1:$port backlog=4096; root $work/build; }
}
N
  nginx -p "$work/nginx/$sendfile" -c "$work/nginx/$sendfile/nginx.conf" &
  pids+=("$!")
  declare "nginx_$sendfile=http://127.0.0.1:$port"
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do kill -0 "$!"; done
  port=$((port + 1))
done

# Measures bytes per second for large files and requests per second for small ones.
measure() { # URL RANGE: "requests/s MB/s failures"
  local header=()
  [[ -z $2 ]] || header=(-H "Range: bytes=$2")
  wrk -t1 -c"$connections" -d"${seconds}s" --timeout 60s "${header[@]}" "$1" | awk '
    /requests in/ { n = $1; bytes = $5; time = $4 }
    /Requests\/sec/ { requests = $2 }
    /Transfer\/sec/ { rate = $2 }
    /Socket errors/ { gsub(",", ""); failed += $4 + $6 + $8 + $10 }
    /Non-2xx/ { failed += $NF }
    END {
      unit = 1e-6
      if (rate ~ /KB/) unit *= 1024; else if (rate ~ /MB/) unit *= 1024 ^ 2
      else if (rate ~ /GB/) unit *= 1024 ^ 3
      printf "%.0f %.0f %d\n", requests, rate * unit, failed
    }'
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

measure "$url/small.cpio.gz" "" >/dev/null
printf '%s connections, %s s each, median of %s\n\n' "$connections" "$seconds" "$rounds"
printf '| what | overcoat | nginx, sendfile | nginx, read | ratio | failed |\n|---|---|---|---|---|---|\n'
while IFS='|' read -r what file range field unit; do
  for ((round = 0; round < rounds; round++)); do
    for server in ours on off; do
      case $server in ours) at=$url ;; on) at=$nginx_on ;; off) at=$nginx_off ;; esac
      measure "$at/$file" "$range" >>"$work/$file$range.$server"
    done
  done
  for server in ours on off; do
    declare "r_$server=$(cut -d' ' -f"$field" "$work/$file$range.$server" | median)"
  done
  failed=$(awk '{ n += $3 } END { print n }' "$work/$file$range.ours")
  awk -v w="$what" -v a="$r_ours" -v b="$r_on" -v c="$r_off" -v u="$unit" -v f="$failed" 'BEGIN {
    best = b > c ? b : c
    printf "| %s | %d %s | %d | %d | %.2f | %d |\n", w, a, u, b, c, a / best, f
  }'
done <<'T'
4 KiB|small.cpio.gz||1|requests/s
5 MiB|overlay.cpio.gz||2|MB/s
64 MiB|base.squashfs||2|MB/s
1 MiB of the 64 MiB|base.squashfs|10000000-11048575|2|MB/s
16 KiB of the 64 MiB|base.squashfs|20000000-20016383|1|requests/s
T
awk '/VmHWM/ { printf "\nPeak memory of overcoat: %.0f MB\n", $2 / 1000 }' "/proc/$ours/status"

#!/bin/bash
# Measures large images and large uppers: the table in section Scale of docs/PERFORMANCE.md. Must
# run as root, to drop the kernel's caches. Takes ten minutes, 4 GB of memory and 1 GB on disk.
#
#   benches/scale.sh [PART]...     (default: all: directory million small deep sparse full layers)
#
# Environment: OVERCOAT (the program, release build), SCALE_FILES (default 1000000), TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/.."
OVERCOAT=$(realpath "${OVERCOAT:-target/release/overcoat}")
[[ $(id -u) = 0 ]] || { echo "scale.sh: run as root" >&2; exit 2; }
for tool in python3 mksquashfs unsquashfs cpio bsdtar; do
  command -v "$tool" >/dev/null || { echo "scale.sh: $tool is missing" >&2; exit 2; }
done
W=$(mktemp -d "${TMPDIR:-/tmp}/overcoat-scale.XXXXXX")
# shellcheck disable=SC2015
trap 'for m in "$W"/mnt*; do mountpoint -q "$m" && umount -l "$m" || :; done; rm -rf "$W"' EXIT
# Clean up after signals as well.
trap 'exit 1' HUP INT TERM
python3 benches/scale.py "$OVERCOAT" "$W" "$@"

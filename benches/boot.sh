#!/bin/bash
# Boots the artifacts of `make demo` from the firmware on, with the same overlay compressed by gzip
# and by zstd in turns, and prints the median duration of each phase in seconds.
#
#   benches/boot.sh [PROGRAM]      ROUNDS=3, ACCELERATOR=tcg
#
# Needs qemu-system-x86, ipxe-qemu, zstd, python3 and build/netboot.
set -euo pipefail
program=$(realpath "${1:-$(dirname "$0")/../target/release/overcoat}")
cd "$(dirname "$0")/../build/netboot"
work=$(mktemp -d "${TMPDIR:-/tmp}/boot.XXXXXX")
trap 'rm -rf "$work"' EXIT
cp discovery.cpio.gz "$work/gzip"
gzip -dc discovery.cpio.gz | zstd -q -3 -o "$work/zstd"
for ((round = 0; round < ${ROUNDS:-3}; round++)); do
  for kind in gzip zstd; do
    "$program" boot --accelerator "${ACCELERATOR:-tcg}" --base base.squashfs --kernel vmlinuz \
      --initrd initrd.img --json "$work/$kind" --run 'du -skx /run/overcoat | cut -f1' \
      2>/dev/null >"$work/$kind.$round.json"
  done
done
python3 - "$work" <<'P'
import glob, json, statistics, sys

work = sys.argv[1]
phases = ["firmware", "load", "kernel", "fetch", "system"]
print("| overlay | " + " | ".join(phases) + " | total | MB fetched | MB held by images and overlays"
      " | MB available of total |")
print("|---" * (len(phases) + 5) + "|")
for kind in ["gzip", "zstd"]:
    runs = [json.load(open(path)) for path in glob.glob(f"{work}/{kind}.*.json")]
    assert all(run["up"] for run in runs), runs
    seconds = lambda run, name: sum(p["seconds"] for p in run["phases"] if p["phase"] == name)
    middle = lambda value: statistics.median(value(run) for run in runs)
    cells = [middle(lambda run: seconds(run, name)) for name in phases]
    cells.append(middle(lambda run: sum(seconds(run, name) for name in phases)))
    cells.append(middle(lambda run: run["fetched"] / 1e6))
    cells.append(middle(lambda run: int(run["command"]["output"]) * 1024 / 1e6))
    memory = middle(lambda run: run["memory"]["available"] / 1e6)
    total = runs[0]["memory"]["total"] / 1e6
    print(f"| {kind} | " + " | ".join(f"{cell:.1f}" for cell in cells) + f" | {memory:.0f} of {total:.0f} |")
P

#!/bin/bash
# Fuzzes the readers of images for so many seconds each: `fuzz.sh 60`. A finding ends it with an
# error and lies in fs-model/fuzz/artifacts.
set -euo pipefail
seconds=${1:-60}
cd "$(dirname "$0")/../fs-model/fuzz"
# The sanitizers are unstable; this says to the stable compiler that we know.
export RUSTC_BOOTSTRAP=1
./seeds.sh
./seeds-cpio.sh
./seeds-tar.sh
for target in squashfs cpio tar; do
  cargo fuzz build --fuzz-dir . "$target"
  # A reader that takes more memory than this for images of at most 1 MiB has a fault.
  cargo fuzz run --fuzz-dir . "$target" -- -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=1024 -max_len=1048576 -print_final_stats=1
done

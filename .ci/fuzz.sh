#!/bin/bash
# Fuzzes each image reader for the given number of seconds: `fuzz.sh 60`. A crash ends the script
# with an error; its input is in fs-model/fuzz/artifacts.
set -euo pipefail
seconds=${1:-60}
cd "$(dirname "$0")/../fs-model/fuzz"
# Sanitizers are an unstable feature; this enables them in a stable compiler.
export RUSTC_BOOTSTRAP=1
./seeds.sh
./seeds-cpio.sh
./seeds-tar.sh
# The layer reads the same archives.
mkdir -p corpus/tar_layer
cp corpus/tar/* corpus/tar_layer/
for target in squashfs cpio tar tar_layer; do
  cargo fuzz build --fuzz-dir . "$target"
  # Images have at most 1 MiB: a reader must not need more memory than this for them.
  cargo fuzz run --fuzz-dir . "$target" -- -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=1024 -max_len=1048576 -print_final_stats=1
done

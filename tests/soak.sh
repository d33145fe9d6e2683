#!/bin/bash
# Tries new random sequences of operations for so many seconds: `soak.sh 600`. The tree against its
# model, and a mount against the kernel's overlayfs and tmpfs. Run as root, which mounts those.
# What fails is shrunk, printed, and kept beside the tests to be tried first from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
end=$((SECONDS + ${1:-600}))
while ((SECONDS < end)); do
  PROPTEST_CASES=2000 cargo test --quiet --locked --package fs-model --test tree -- properties
  DIFFERENTIAL_CASES=500 cargo test --quiet --locked --package overcoat --test program -- differential
done

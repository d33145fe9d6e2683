#!/bin/bash
# Tries new random sequences of operations for so many seconds: `soak.sh 600`. The tree against its
# model, a mount against the kernel's overlayfs and tmpfs, and many threads and processes at once.
# Run as root, which mounts those. What fails in the first two is shrunk, printed, and kept beside
# the tests to be tried first from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
end=$((SECONDS + ${1:-600}))
# Once, because it builds a standard library of its own.
tests/tsan.sh
while ((SECONDS < end)); do
  PROPTEST_CASES=2000 cargo test --quiet --locked --package fs-model --test tree -- properties
  DIFFERENTIAL_CASES=500 cargo test --quiet --locked --package overcoat --test program -- differential
  THREADS_ROUNDS=20 cargo test --quiet --locked --package fs-model --test threads
  CONCURRENCY_STEPS=20000 cargo test --quiet --locked --package overcoat --test program -- concurrency
done

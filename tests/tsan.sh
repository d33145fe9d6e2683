#!/bin/bash
# Runs the tests with many threads under ThreadSanitizer, which reports data races. The standard
# library is built with it too, because it must know the order that channels and joins establish. The
# locks of parking_lot are atomics, not pthread mutexes, so lock order is not checked; the tests
# detect deadlocks themselves.
#
#   tests/tsan.sh [ARGUMENT OF THE TESTS]...
set -euo pipefail
cd "$(dirname "$0")/.."
triple=$(rustc -vV | sed -n 's/^host: //p')
if [[ ! -d $(rustc --print sysroot)/lib/rustlib/src/rust/library ]]; then
  rustup component add rust-src
fi
# The stable compiler accepts the unstable sanitizers with this variable.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/tsan
# The sanitizer is ten times slower.
export THREADS_STEPS=${THREADS_STEPS:-1500}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}
cargo test -Zbuild-std --target "$triple" --locked --package fs-model --lib --test threads -- "$@"

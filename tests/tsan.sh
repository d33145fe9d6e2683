#!/bin/bash
# The tests with many threads, under ThreadSanitizer, which sees what is read and written by two
# threads without an order between them. The standard library is built with it too: without that, it
# would not know what channels and joins order. The locks (parking_lot) are built with it like
# everything else in Rust; that they are atomics and no pthread mutexes means that it does not judge
# the order in which they are taken: for deadlocks the tests watch themselves.
#
#   tests/tsan.sh [ARGUMENT OF THE TESTS]...
set -euo pipefail
cd "$(dirname "$0")/.."
triple=$(rustc -vV | sed -n 's/^host: //p')
if [[ ! -d $(rustc --print sysroot)/lib/rustlib/src/rust/library ]]; then
  rustup component add rust-src
fi
# The sanitizers are unstable; this says to the stable compiler that we know.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=thread CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/tsan
# It is ten times slower.
export THREADS_STEPS=${THREADS_STEPS:-1500}
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1}
cargo test -Zbuild-std --target "$triple" --locked --package fs-model --lib --test threads -- "$@"

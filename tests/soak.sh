#!/bin/bash
# Runs random sequences of operations for the given number of seconds, then finishes the round:
# `soak.sh 600`. Compares the tree with its model and a mount with the kernel's overlayfs and tmpfs,
# and runs many threads and processes concurrently. Must run as root, which mounts these file
# systems. Failing sequences are shrunk and printed, and their seeds are stored beside the tests,
# which try them first from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=(fs-model/tests/proptest-regressions/properties.txt tests/cli/differential/seeds)
# Cases per round: for each of the three properties of the tree that use operations, and for each of
# the two kernel file systems.
model=400 kernel=60
rounds=0

known=$(mktemp)
trap 'rm -f "$known"' EXIT
cat "${seeds[@]}" >"$known" 2>/dev/null || :

failed() {
  echo "soak: failed; new seeds, which are tried first from now on (known seeds are not listed):"
  for file in "${seeds[@]}"; do
    [[ ! -e $file ]] || grep -vxFf "$known" "$file" | sed "s|^|$file: |" || :
  done
  exit 1
}

cargo test --quiet --locked --no-run --workspace --test tree --test cli --test threads
end=$((SECONDS + ${1:-600}))
while ((SECONDS < end)); do
  PROPTEST_CASES=$model cargo test --quiet --locked --workspace --test tree -- \
    properties || failed
  DIFFERENTIAL_CASES=$kernel cargo test --quiet --locked --workspace --test cli -- \
    differential || failed
  THREADS_ROUNDS=3 cargo test --quiet --locked --workspace --test threads
  cargo test --quiet --locked --workspace --test cli -- concurrency
  rounds=$((rounds + 1))
done
echo "soak: $((rounds * 3 * model)) sequences against the model," \
  "$((rounds * 2 * kernel)) against the kernel, $rounds rounds of threads and processes, no failures"

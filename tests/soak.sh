#!/bin/bash
# Tries new random sequences of operations for so many seconds, and a round more: `soak.sh 600`. The
# tree against its model, a mount against the kernel's overlayfs and tmpfs, and many threads and
# processes at once. Run as root, which mounts those. What fails in the first two is shrunk and
# printed, and its seed is kept beside the tests, to be tried first from then on.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=(fs-model/tests/proptest-regressions/properties.txt tests/program/differential/seeds)
# Of a round, for each of the three properties of the tree that operations are for, and for each of
# the two kernel's file systems.
model=400 kernel=60
rounds=0

known=$(mktemp)
trap 'rm -f "$known"' EXIT
cat "${seeds[@]}" >"$known" 2>/dev/null || :

failed() {
  echo "soak: this failed; new seeds, which are tried first from now on (those that were known" \
    "already are not told again):"
  for file in "${seeds[@]}"; do
    [[ ! -e $file ]] || grep -vxFf "$known" "$file" | sed "s|^|$file: |" || :
  done
  exit 1
}

cargo test --quiet --locked --no-run --workspace --test tree --test program --test threads
end=$((SECONDS + ${1:-600}))
while ((SECONDS < end)); do
  PROPTEST_CASES=$model cargo test --quiet --locked --workspace --test tree -- \
    properties || failed
  DIFFERENTIAL_CASES=$kernel cargo test --quiet --locked --workspace --test program -- \
    differential || failed
  THREADS_ROUNDS=3 cargo test --quiet --locked --workspace --test threads
  cargo test --quiet --locked --workspace --test program -- concurrency
  rounds=$((rounds + 1))
done
echo "soak: $((rounds * 3 * model)) sequences against the model," \
  "$((rounds * 2 * kernel)) against the kernel, $rounds rounds of threads and processes, all well"

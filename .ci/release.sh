#!/bin/bash
# Builds the program of a release: `release.sh`, or `release.sh --static` for a program without
# shared libraries. The paths of this machine are not in it, so that all machines make the same
# bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
# Cargo and the compilers resolve symbolic links, and the mapped prefixes have to match.
project=$(realpath .)
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
sources=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}/registry/src")
options=(--release --locked --package overcoat)
flags=()
if [[ ${1:-} = --static ]]; then
  # With a target, the flags do not apply to build scripts and procedural macros.
  options+=(--target "$(rustc --print host-tuple)")
  flags+=(-C target-feature=+crt-static)
fi

# Replaces the prefix $1 of paths in the program by $2.
map() {
  flags+=("--remap-path-prefix=$1=$2")
  maps+=" -ffile-prefix-map=$1=$2"
}
maps=

# The names below the sources depend on the registry, and exist once the crates are fetched.
"$cargo" fetch --locked
# The last mapping that matches a path applies, and the directories may contain each other.
map "$project" /overcoat
map "$(realpath "$(rustc --print sysroot)")" /rust
for registry in "$sources"/*/; do
  map "${registry%/}" /cargo
done
map "$target" /target
export CFLAGS="${CFLAGS:-}$maps" CXXFLAGS="${CXXFLAGS:-}$maps"
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
exec "$cargo" build "${options[@]}"

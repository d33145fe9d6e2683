#!/bin/bash
# Builds the program of a release: `release.sh`, or `release.sh --static` for a program without
# shared libraries. The paths of this machine are not in it, so that all machines make the same
# bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
options=(--release --locked --package overcoat)
flags=()
if [[ ${1:-} = --static ]]; then
  # With a target, the flags do not apply to build scripts and procedural macros.
  options+=(--target "$(rustc --print host-tuple)")
  flags+=(-C target-feature=+crt-static)
fi

# The names below the sources depend on the registry, and exist once the crates are fetched.
"$cargo" fetch --locked
flags+=("--remap-path-prefix=$PWD=/overcoat" "--remap-path-prefix=$(rustc --print sysroot)=/rust")
maps="-ffile-prefix-map=$PWD=/overcoat"
for registry in "$sources"/*/; do
  flags+=("--remap-path-prefix=${registry%/}=/cargo")
  maps+=" -ffile-prefix-map=${registry%/}=/cargo"
done
export CFLAGS="${CFLAGS:-} $maps" CXXFLAGS="${CXXFLAGS:-} $maps"
CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f'; echo "${flags[*]}")
export CARGO_ENCODED_RUSTFLAGS
exec "$cargo" build "${options[@]}"

#!/bin/bash
# Prints the licences of the crates that are parts of the program, each text once.
set -euo pipefail
cd "$(dirname "$0")/.."

sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
declare -A texts names
order=()
while read -r name version licence; do
  echo "$name ${version#v}: $licence"
  # Crates that contain a C library have its licence in a directory below.
  for file in "$sources"/*/"$name-${version#v}"/{,*/}{LICEN[CS]E,COPYING,COPYRIGHT,NOTICE,licen[cs]e}*; do
    [[ -f $file ]] || continue
    digest=$(sha256sum <"$file")
    if [[ -z ${texts[$digest]:-} ]]; then
      texts[$digest]=$file
      order+=("$digest")
    fi
    names[$digest]+=" $name"
  done
done < <(${CARGO:-cargo} tree --locked --package overcoat --edges normal --prefix none \
  --format '{p} {l}' | sed -E 's/ \([^)]*\)//g' | grep -v -E '^(overcoat|fs-model|provisioners) ' | LC_ALL=C sort -u)
for digest in "${order[@]}"; do
  printf '\n%s\n%s:\n\n' "$(printf '=%.0s' {1..78})" "$(fmt -w 78 <<<"${names[$digest]# }")"
  cat "${texts[$digest]}"
done

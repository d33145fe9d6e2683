#!/bin/sh
# Creates the seed corpus of the squashfs target: small images for each compressor, in
# corpus/squashfs next to this script. Needs mksquashfs (package squashfs-tools).
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/squashfs
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/etc/deep" "$tree/empty" "$tree/many"
echo root:x:0:0 >"$tree/etc/passwd"
ln "$tree/etc/passwd" "$tree/etc/passwd-"
ln -s etc/passwd "$tree/link"
seq 3000 >"$tree/etc/deep/text"
head -c 5000 /dev/urandom >"$tree/etc/random"
truncate -s 30000 "$tree/sparse"
echo end >>"$tree/sparse"
for i in $(seq 300); do echo "$i" >"$tree/many/a-rather-long-name-$i"; done
setfattr -n user.name -v value "$tree/etc/passwd" 2>/dev/null || true
for compressor in gzip xz zstd lz4 lzo; do
    mksquashfs "$tree" "corpus/squashfs/$compressor" -comp "$compressor" -b 4096 -all-root \
        -noappend -no-progress -nopad -quiet \
        -p "null c 666 0 0 1 3" -p "whiteout c 600 0 0 0 0" -p "fifo i 644 1 2 f" >/dev/null
done
# Uncompressed tables without the many names, so that most mutations have an effect.
rm -r "$tree/many"
mksquashfs "$tree" corpus/squashfs/plain -b 4096 -all-root -noappend -no-progress -nopad -quiet \
    -noI -noX -noId -noF -noD >/dev/null
mksquashfs "$tree" corpus/squashfs/tables -b 4096 -all-root -noappend -no-progress -nopad -quiet \
    -noI -noX -noId >/dev/null

#!/bin/sh
# Fills corpus/cpio with small archives: all types of objects, links, checksums and compressions.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/cpio
corpus=$PWD/corpus/cpio
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p root/dir/sub
cd root
echo content >dir/file
ln dir/file link
ln -s dir/file symlink
: >dir/.wh.hidden
: >dir/sub/.wh..wh..opq
mkfifo fifo
mknod gone c 0 0
head -c 300000 /dev/zero >dir/sparse
for format in newc crc; do
    find . | LC_ALL=C sort | cpio --quiet -o -H "$format" >"$corpus/$format"
done
rm dir/sparse
find . | LC_ALL=C sort | cpio --quiet -o -H newc >"$corpus/small"
cat "$corpus/small" "$corpus/small" >"$corpus/twice"
gzip -n <"$corpus/small" >"$corpus/gzip"
zstd -q <"$corpus/small" >"$corpus/zstd"
cat "$corpus/small" "$corpus/gzip" "$corpus/zstd" >"$corpus/mixed"

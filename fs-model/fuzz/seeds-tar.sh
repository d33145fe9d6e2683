#!/bin/sh
# Fills corpus/tar with small archives: all formats, types of objects, holes and attributes.
set -eu
cd "$(dirname "$0")"
mkdir -p corpus/tar
corpus=$PWD/corpus/tar
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p root/dir/sub
cd root
echo content >dir/file
ln dir/file link
ln -s dir/file symlink
mkfifo fifo
truncate -s 1M dir/sparse
echo end >>dir/sparse
long=$(printf '%0120d' 0)
mkdir "$long"
: >"$long/$long"
ln -s "$long/$long" long
for format in v7 oldgnu gnu ustar posix; do
    # v7 and ustar do not support the long names, so tar fails.
    tar --format="$format" -cf "$corpus/$format" . 2>../log || case $format in v7 | ustar) ;; *) exit 1 ;; esac
done
tar --format=gnu -Scf "$corpus/gnu-sparse" dir
for version in 0.0 0.1 1.0; do
    tar --format=posix -S --sparse-version="$version" -cf "$corpus/posix-$version" dir
done
tar --format=gnu -g ../snapshot -V label -cf "$corpus/incremental" .
python3 - "$corpus" <<'P'
import io, sys, tarfile
pax = {"format": tarfile.PAX_FORMAT, "pax_headers": {"comment": "x"}}
with tarfile.open(sys.argv[1] + "/attributes", "w", **pax) as tar:
    for kind in (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE, b"Z"):
        entry = tarfile.TarInfo("x" + kind.decode())
        entry.type, entry.mtime, entry.uid = kind, -1.5, 1 << 31
        entry.pax_headers = {
            "SCHILY.xattr.user.a%3D": "1\n2",
            "LIBARCHIVE.xattr.user.a": "AAo",
            "SCHILY.acl.access": "user::rw-\nuser:7:r--\ngroup::r--\nmask::r--\nother::r--\n",
            "SCHILY.acl.default": "u::rwx,g::r-x,o::---",
        }
        tar.addfile(entry)
P

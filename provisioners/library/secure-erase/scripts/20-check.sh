#!/bin/sh
# Fails the build rather than the machine: what the program needs has to be there.
set -eu
for tool in hdparm nvme sg_sanitize sg_opcodes blkdiscard wipefs blockdev dd sha256sum bash; do
  command -v "$tool" >/dev/null || { echo "the image has no $tool" >&2; exit 1; }
done
bash -n /usr/local/sbin/secure-erase

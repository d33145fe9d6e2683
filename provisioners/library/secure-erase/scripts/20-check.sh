#!/bin/sh
# Checks that the image has what the program needs, so that the build fails and not the machine.
set -eu
for tool in hdparm nvme sg_sanitize sg_opcodes blkdiscard wipefs blockdev dd sha256sum bash; do
  command -v "$tool" >/dev/null || { echo "the image has no $tool" >&2; exit 1; }
done
bash -n /usr/local/sbin/secure-erase

#!/bin/sh
# Checks that the image has what the inventory needs, so that the build fails and not the machine.
set -eu
for tool in mdadm lsscsi lspci sg_inq smartctl hdparm nvme cciss_vol_status bash; do
  command -v "$tool" >/dev/null || { echo "the image has no $tool" >&2; exit 1; }
done
bash -n /usr/local/sbin/raid-inventory

#!/bin/sh
# Checks that the image has what the unit needs, so that the build fails and not the machine.
set -eu
for tool in dmidecode lshw lsscsi lspci ethtool smartctl lldpcli hdparm ipmitool bash; do
  command -v "$tool" >/dev/null || { echo "the image has no $tool" >&2; exit 1; }
done
bash -n /usr/local/sbin/discover
test -x /usr/local/sbin/discover
test -e /etc/systemd/system/multi-user.target.wants/discovery.service
grep -q "tx-interval $OVERCOAT_VAR_lldp_interval" /etc/lldpd.d/overcoat.conf

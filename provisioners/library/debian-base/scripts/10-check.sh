#!/bin/sh
# Reports the packages that the image lacks, so that the build fails and not the machine.
set -eu
missing=
need() { test -e "$1" || missing="$missing $2"; }
need /sbin/init systemd-sysv
need /lib/systemd/systemd-networkd systemd
need /lib/systemd/systemd-resolved systemd-resolved
need /usr/bin/dbus-daemon dbus
need /lib/systemd/systemd-udevd udev
need /usr/bin/kmod kmod
need /usr/sbin/sshd openssh-server
if [ "$OVERCOAT_VAR_boot_hook" = true ]; then
  command -v curl >/dev/null || command -v wget >/dev/null || missing="$missing curl"
fi
if [ -n "$missing" ]; then
  echo "the image lacks packages that this provisioner configures: add to its packages:$missing" >&2
  exit 1
fi
case $OVERCOAT_VAR_serial_console in
  *[!A-Za-z0-9]*)
    echo "serial_console must be a device name such as ttyS0, not $OVERCOAT_VAR_serial_console" >&2
    exit 1 ;;
esac

# Runs inside the image with `sh -e`.
enable() { systemctl --root=/ --quiet enable "$@"; }

enable systemd-networkd.service systemd-resolved.service ssh.service ssh-host-keys.service
# A machine that runs from RAM needs no maintenance of packages and disks.
systemctl --root=/ --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  e2scrub_all.timer fstrim.timer

# The backup that systemd-resolved made at its installation: the resolv.conf of the build host.
rm -f /etc/.resolv.conf.systemd-resolved.bak

if [ -n "$OVERCOAT_VAR_serial_console" ]; then
  enable "serial-getty@$OVERCOAT_VAR_serial_console.service"
fi
if [ "$OVERCOAT_VAR_boot_hook" = true ]; then
  enable boot-hook.service
else
  systemctl --root=/ --quiet disable boot-hook.service
fi
if [ -n "$OVERCOAT_VAR_root_password_hash" ]; then
  printf 'root:%s\n' "$OVERCOAT_VAR_root_password_hash" | chpasswd --encrypted
fi

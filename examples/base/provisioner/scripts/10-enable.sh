# Runs inside the image by `sh -e`.
enable() { systemctl --root=/ --quiet enable "$@"; }

enable systemd-networkd.service systemd-resolved.service ssh-host-keys.service
# Nothing on a machine without disks keeps time for timers that look after packages and disks.
systemctl --root=/ --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  e2scrub_all.timer fstrim.timer

test -e /etc/systemd/system/multi-user.target.wants/ssh-host-keys.service
test -x /sbin/init

# Runs inside the image by `sh -e`. Enables units, with or without systemd in the image yet.
wants=/etc/systemd/system/multi-user.target.wants
if [ "$OVERCOAT_VAR_inventory_at_boot" = true ]; then
  mkdir -p "$wants"
  ln -sf /etc/systemd/system/raid-inventory.service "$wants/"
fi
# Nothing here looks after disks for long: no daemons that mail about them.
rm -f "$wants/smartmontools.service" "$wants/smartd.service"
for timer in mdcheck_start.timer mdcheck_continue.timer mdmonitor-oneshot.timer; do
  rm -f "/etc/systemd/system/mdmonitor.service.wants/$timer"
  ln -sf /dev/null "/etc/systemd/system/$timer"
done
ln -sf /dev/null /etc/systemd/system/mdmonitor.service

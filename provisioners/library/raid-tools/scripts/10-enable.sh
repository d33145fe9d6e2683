# Runs inside the image by `sh -e`. Enables units, with or without systemd in the image yet.
wants=/etc/systemd/system/multi-user.target.wants
if [ "$OVERCOAT_VAR_inventory_at_boot" = true ]; then
  mkdir -p "$wants"
  ln -sf /etc/systemd/system/raid-inventory.service "$wants/"
else
  rm -f "$wants/raid-inventory.service"
fi
# Nothing here looks after disks for long: no daemons that mail about them.
rm -f "$wants/smartmontools.service" "$wants/smartd.service"
for unit in mdmonitor.service mdmonitor-oneshot.timer mdcheck_start.timer mdcheck_continue.timer; do
  rm -f "/etc/systemd/system/mdmonitor.service.wants/$unit"
  ln -sf /dev/null "/etc/systemd/system/$unit"
done
# Nor do disks of the network belong to this machine.
rm -f /etc/systemd/system/default.target.wants/nvm*.service

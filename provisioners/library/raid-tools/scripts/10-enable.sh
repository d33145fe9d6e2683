# Runs inside the image with `sh -e`. Enables units, also if the image has no systemd yet.
wants=/etc/systemd/system/multi-user.target.wants
if [ "$OVERCOAT_VAR_inventory_at_boot" = true ]; then
  mkdir -p "$wants"
  ln -sf /etc/systemd/system/raid-inventory.service "$wants/"
else
  rm -f "$wants/raid-inventory.service"
fi
# Disable monitoring daemons, which send mail about disks.
rm -f "$wants/smartmontools.service" "$wants/smartd.service"
for unit in mdmonitor.service mdmonitor-oneshot.timer mdcheck_start.timer mdcheck_continue.timer; do
  rm -f "/etc/systemd/system/mdmonitor.service.wants/$unit"
  ln -sf /dev/null "/etc/systemd/system/$unit"
done
# Disable automatic connections to network disks.
rm -f /etc/systemd/system/default.target.wants/nvm*.service

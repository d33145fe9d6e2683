# Runs inside the image with `sh -e`. Disables nvme-cli's automatic connections to network disks,
# which must not be erased.
rm -f /etc/systemd/system/default.target.wants/nvm*.service

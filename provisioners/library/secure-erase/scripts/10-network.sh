# Runs inside the image by `sh -e`. Disks of the network are not this machine's: nvme-cli would have
# them connected at boot.
rm -f /etc/systemd/system/default.target.wants/nvm*.service

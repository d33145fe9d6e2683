//! The behaviour of on-imagebuilder's initrd, reproduced by its own steps without overcoat's
//! initrd: busybox unpacks the overlay with `gzip -d | cpio -i` into a tmpfs, which is mounted over
//! the base.

use crate::machine::{Site, qemu};

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
for word in $(cat /proc/cmdline); do
  case $word in BASEFS=*|OVERLAYFS=*|BOOTIF=*) export "$word" ;; esac
done
address=$(echo ${BOOTIF#01-} | tr - :)
for card in /sys/class/net/*; do
  [ "$(cat $card/address)" != $address ] || card_name=${card##*/}
done
ifconfig $card_name 10.0.2.15 netmask 255.255.255.0 up
mount -t tmpfs -o mode=0755 tmpfs /memory
mkdir /memory/upper /memory/work
wget -q -O /memory/base $BASEFS && wget -q -O /memory/overlay $OVERLAYFS
mount -t squashfs -o loop,ro /memory/base /lower
cd /memory/upper && gzip -d </memory/overlay | cpio -i
mount -t overlay -o lowerdir=/lower,upperdir=/memory/upper,workdir=/memory/work overlay /root
for dir in proc sys dev; do mount -o move /$dir /root/$dir; done
exec switch_root /root /probe
"#;

#[test]
fn on_imagebuilder_initrd_boots_overcoat_artifacts() {
    let site = Site::new();
    let look = "cat /srv/a; ls /etc/motd; stat -c '%a %u:%g %h %n' / /srv/b; stat -fc %T /";
    site.probe(
        "one.cpio.gz",
        &[],
        look,
        "echo a >/srv/a; echo b >/srv/b; ln /srv/b /srv/c; chown 3:4 /srv/b; rm /etc/motd",
    );
    let (kernel, _) = site.kernel_and_initrd();
    site.stage.write("tree/init", INIT);
    // The modules of the library's initrd, each after its dependencies.
    site.stage.sh(
        "mkdir whole; zstd -qdc <initrd.img >whole.cpio; (cd whole; bsdtar -xf ../whole.cpio)
         cd tree; mkdir -p bin modules proc sys dev memory lower root
         cp $(command -v busybox) bin/busybox
         version=$(ls ../whole/usr/lib/modules); depmod -b ../whole/usr $version 2>/dev/null || :
         for module in virtio_pci virtio_net squashfs overlay loop; do
           modprobe -d ../whole/usr -S $version --show-depends $module
         done | sed -n 's/^insmod //p' | awk '!seen[$1]++' | while read -r path; do
           cp $path modules/; echo ${path##*/}; done >modules/order
         find . | cpio -o -H newc 2>/dev/null | gzip -1 >../original.img",
    );
    let line = format!(
        "BASEFS={} OVERLAYFS={} BOOTIF=01-52-54-00-12-34-56",
        site.url("base.squashfs"),
        site.url("one.cpio.gz")
    );
    let console = qemu(&kernel, &site.stage.path("original.img"), &line, &[]);
    console
        .shows(&["a\nls: cannot access '/etc/motd'", "755 0:0 1 /\n644 3:4 2 /srv/b\noverlayfs"]);
}

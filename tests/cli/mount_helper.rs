//! mount(8) and fstab with the type `fuse.overcoat`.

use std::fs;
use std::path::Path;

use crate::image_fixture::{SMALL, layers};
use crate::support::stage::{Stage, Who, finish};

#[test]
fn mount_and_fstab_support_the_file_system_type() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    // mount(8) searches helpers in /sbin only: link to the program under the helper's name.
    stage.sh(
        "mkdir sbin sbin/upper sbin/work mnt
         mount -t overlay o -o lowerdir=/usr/sbin,upperdir=$PWD/sbin/upper,workdir=$PWD/sbin/work /usr/sbin
         ln -sf $PWD/overcoat /sbin/mount.fuse.overcoat",
    );
    let strange = stage.path("layers/over,with:a \\name.cpio.gz");
    fs::rename(&over, &strange).unwrap();
    let folder = base.parent().unwrap().display();
    let spec = format!("{folder}/base.squashfs:{folder}/over,with\\:a \\\\name.cpio.gz");
    let mount = |words: &[&str]| finish(stage.command(Who::Root, "mount").args(words));
    let mnt = stage.path("mnt");
    let mnt = mnt.to_str().unwrap();
    mount(&["-t", "fuse.overcoat", &spec, mnt, "-o", "rw,nosuid,upper_size=64M"]).ok();
    assert_eq!(fs::read(Path::new(mnt).join("etc/motd")).unwrap(), b"one\n2\nthree\n");
    fs::write(Path::new(mnt).join("new"), "x").unwrap();
    assert!(stage.sh("findmnt -no OPTIONS mnt").contains("nosuid"));
    // A remount changes the options.
    mount(&["-o", "remount,ro", mnt]).ok();
    let refused = fs::write(Path::new(mnt).join("new"), "y").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert!(stage.sh("findmnt -no OPTIONS mnt").contains("nosuid"), "nosuid is kept");
    mount(&["-o", "remount,rw", mnt]).ok();
    fs::write(Path::new(mnt).join("new"), "y").unwrap();
    stage.sh("umount mnt");

    let line = spec.replace(' ', "\\040");
    stage.write(
        "fstab",
        format!("{line} {mnt} fuse.overcoat ro,nofail,_netdev,x-systemd.automount 0 0\n"),
    );
    stage.sh("mount -T fstab -a");
    assert!(fs::write(Path::new(mnt).join("new"), "x").is_err());
    // The second `mount -a` recognizes the mount.
    stage.sh("mount -T fstab -a; test $(grep -c fuse.overcoat /proc/self/mounts) = 1; umount mnt");

    mount(&["-t", "fuse.overcoat", &spec, mnt, "-o", "size=3"]).code(1).stderr_has(&["size=3"]);
    mount(&["-t", "fuse.overcoat", "/none", mnt]).code(32).stderr_has(&["cannot open /none"]);

    // Without the helper, that of libfuse finds the program by its name.
    stage.sh("rm /sbin/mount.fuse.overcoat; ln -sf $PWD/overcoat /usr/sbin/overcoat");
    mount(&["-t", "fuse.overcoat", &spec, mnt, "-o", "ro"]).ok();
    assert!(fs::write(Path::new(mnt).join("new"), "x").is_err());
    stage.sh("umount mnt");
}

//! fstab, crypttab, the default target, and words of the kernel command line.

use super::{assert_found, found};
use crate::support::newc::Archive;

#[test]
fn entries_of_fstab_that_do_not_mount_are_reported() {
    let device = "a machine may lack";
    for (line, expected) in [
        ("/dev/sda1", "fstab /etc/fstab:2: it has 1 fields, not 3 to 6"),
        ("/dev/sda1 /a", "fstab /etc/fstab:2: it has 2 fields, not 3 to 6"),
        ("tmpfs data tmpfs", "fstab /etc/fstab:2: the mount point data is not an absolute path"),
        ("tmpfs none tmpfs", "fstab /etc/fstab:2: the mount point none is not an absolute path"),
        ("tmpfs /a b tmpfs defaults", "fstab /etc/fstab:2: its dump field `defaults` is not"),
        ("tmpfs /a tmpfs defaults x 0", "fstab /etc/fstab:2: its dump field `x` is not a number"),
        ("tmpfs /a tmpfs defaults 0 y", "fstab /etc/fstab:2: its pass field `y` is not a number"),
        ("tmpfs /a\\x20b tmpfs", "fstab /etc/fstab:2: invalid escape `\\x20`"),
        ("tmpfs /a\\ tmpfs", "fstab /etc/fstab:2: invalid escape `\\`"),
        ("tmpfs /a tmpfs nofail\r", "fstab /etc/fstab:2: the line ends with CR"),
        ("tmpfs /tmp/ tmpfs", "fstab /etc/fstab:2: the mount point /tmp is also that of line 1"),
        ("s:/a /a nfs", "fstab /etc/fstab:2: the type nfs needs the program mount.nfs, which"),
        ("//s/a /a cifs guest", "fstab /etc/fstab:2: the type cifs needs the program mount.cifs"),
        ("u@s: /a fuse.sshfs", "fstab /etc/fstab:2: the type fuse.sshfs needs the program"),
        ("/dev/sda1 /a ext4", &format!("fstab-device /etc/fstab:2: {device} /dev/sda1")),
        ("UUID=\"1-2\" /a ext4", &format!("fstab-device /etc/fstab:2: {device} UUID=1-2")),
        ("LABEL=a /a ext4 nofail,fail", &format!("fstab-device /etc/fstab:2: {device} LABEL=a")),
        ("/dev/vg/a none swap", ""),
        ("/dev/mapper/a none swap", &format!("fstab-device /etc/fstab:2: {device} /dev/mapper/a")),
        ("PARTUUID=1 / ext4 defaults 0 1", "fstab-root /etc/fstab:2: the root is not on PARTUUID"),
    ] {
        let fstab = format!("tmpfs /tmp tmpfs\n{line}\n");
        let expected: Vec<&str> = [expected].into_iter().filter(|text| !text.is_empty()).collect();
        assert_found(&[("etc/fstab", &fstab)], &expected);
    }
    let accepted = "# a\n\n \t# b\nproc /proc proc defaults 0 0 # c\n\
        tmpfs /a\\040b tmpfs size=1G\noverlay / overlay\n/swapfile none swap sw 0 0\n\
        /dev/sda1 /b ext4 nofail\n/dev/sda2 /c ext4 noauto,user 0 2\nnone /d ignore\n\
        /dev/sda3 /e ext4 x-systemd.automount\ns:/x /f nfs addr=192.0.2.1\n\
        //s/y /g cifs ip=192.0.2.1\n\
        LABEL=s none swap nofail\n/dev/cdrom /h iso9660 noauto\ns:/z /i 9p\n/dev/null none swap\n";
    assert_found(&[("etc/fstab", accepted)], &[]);
    let crypttab = "# a\none\ntwo /dev/sda2\nthree UUID=1 none luks,nofail\nfour /swap.img\n";
    let expected = [
        "fstab /etc/crypttab:2: it has 1 field, not 2 to 4",
        "fstab-device /etc/crypttab:3: a machine may lack /dev/sda2",
    ];
    assert_found(&[("etc/crypttab", crypttab)], &expected);
}

#[test]
fn removed_mount_program_of_an_entry_is_reported() {
    let prepare = |base: &mut Archive| {
        base.file("etc/fstab", "s:/a /a nfs\nu@s: /b fuse.sshfs\n");
        base.program("usr/sbin/mount.nfs", "#!/bin/sh\n");
        base.program("usr/sbin/mount.fuse", "#!/bin/sh\n");
        base.program("usr/bin/sshfs", "#!/bin/sh\n");
    };
    assert_eq!(found(prepare, |_| {}), [""; 0]);
    let gone = |name: &str| found(prepare, |overlay| overlay.whiteout(name));
    let message = |line: u32, kind: &str, program: &str| {
        format!(
            "fstab /etc/fstab:{line}: the type {kind} needs the program {program}, which does not \
             exist"
        )
    };
    assert_eq!(gone("usr/sbin/mount.nfs"), [message(1, "nfs", "mount.nfs")]);
    assert_eq!(gone("usr/sbin/mount.fuse"), [message(2, "fuse.sshfs", "mount.fuse")]);
    assert_eq!(gone("usr/bin/sshfs"), [message(2, "fuse.sshfs", "sshfs")]);
}

#[test]
fn default_target_that_does_not_start_the_system_is_reported() {
    let default = "etc/systemd/system/default.target";
    let prepare = |base: &mut Archive| {
        base.link("usr/lib/systemd/system/default.target", "multi-user.target");
        for name in ["rescue.target", "poweroff.target"] {
            base.file(&format!("usr/lib/systemd/system/{name}"), "[Unit]\n");
        }
    };
    let with = |target: &str| {
        found(prepare, |overlay| {
            overlay.link(default, target);
        })
    };
    let message = |text: &str| [format!("default-target /{default}: {text}")];
    for (target, text) in [
        ("/usr/lib/systemd/system/rescue.target", "it leads to rescue.target"),
        ("/lib/systemd/system/poweroff.target", "it leads to poweroff.target"),
        ("/dev/null", "default.target is masked"),
        ("/lib/systemd/system/none.target", "it leads to none.target, which does not exist"),
    ] {
        assert_eq!(with(target), message(text), "{target}");
    }
    for target in ["/lib/systemd/system/multi-user.target", "/etc/none/multi-user.target"] {
        assert_eq!(with(target), [""; 0], "{target}");
    }
    let empty = found(prepare, |overlay| {
        overlay.file(default, "");
    });
    assert_eq!(empty, message("default.target is an empty file, which masks it"));
    // The target that it leads to is masked or removed.
    let many = "etc/systemd/system/multi-user.target";
    let masked = |overlay: &mut Archive| {
        overlay.link(default, &format!("/{many}"));
        overlay.link(many, "/dev/null");
    };
    assert_eq!(found(prepare, masked), message("multi-user.target is masked"));
    let path = "usr/lib/systemd/system/default.target";
    let gone =
        found(prepare, |overlay| overlay.whiteout("usr/lib/systemd/system/multi-user.target"));
    let expected = "it leads to multi-user.target, which does not exist";
    assert_eq!(gone, [format!("default-target /{path}: {expected}")]);
    let gone = found(prepare, |overlay| overlay.whiteout(path));
    let expected = "default-target /usr/lib/systemd/systemd: there is no default.target";
    assert_eq!(gone, [expected]);
}

#[test]
fn words_of_the_kernel_command_line_in_files_are_notes() {
    let grub = "# GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet splash\"\n\
        GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX console=ttyS0 ro\"\n";
    let note = "kernel-command-line";
    assert_found(
        &[("etc/default/grub", grub), ("etc/default/grub.d/a.cfg", "GRUB_CMDLINE_LINUX=''\n")],
        &[&format!("{note} /etc/default/grub:4: a machine does not get console=ttyS0")],
    );
    assert_found(
        &[
            ("boot/loader/entries/a.conf", "title a\noptions root=/dev/sda1 ro nomodeset\n"),
            ("etc/kernel/cmdline", "root=UUID=1 ro mitigations=off\n"),
        ],
        &[
            &format!("{note} /boot/loader/entries/a.conf:2: a machine does not get nomodeset"),
            &format!("{note} /etc/kernel/cmdline:1: a machine does not get mitigations=off"),
        ],
    );
}

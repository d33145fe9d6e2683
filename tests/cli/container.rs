//! The environment that programs in a root see: a container, and devices that cannot be opened.

use std::process::Command;

use crate::support::stage::{BOTH_USERS, EPOCH, REPOSITORY, Stage, Who, finish};

/// Runs the kernel hooks in a root with GRUB.
const HOOKS: &str = "
    mkdir -p /boot/grub && touch /boot/grub/grub.cfg
    systemd-detect-virt --container && systemd-detect-virt --quiet --chroot
    test ! -e /run/systemd/system
    for hooks in postinst postrm; do
      run-parts --verbose --exit-on-error --arg=6.1.0 /etc/kernel/$hooks.d 2>&1
    done
    rm -r /boot/grub";

#[test]
fn packages_detect_a_container_and_leave_no_mark() {
    let stage = Stage::new();
    stage.write("kernel/apt/etc/apt/sources.list", REPOSITORY);
    stage.write("kernel/hooks.sh", format!("set -e{HOOKS}\n"));
    let steps =
        "steps:\n  - files: apt\n  - packages: [systemd, grub2-common]\n  - script: hooks.sh\n";
    stage.write("kernel/provisioner.yml", steps);
    let text = format!("base: {}\nprovisioner: kernel\nnetwork: none\n", stage.debian().display());
    let image = stage.write("kernel.yml", text);
    let repository = stage.bind_repository();
    for who in BOTH_USERS {
        let output = stage.out(who).join("kernel.cpio");
        let mut command = stage.overcoat(who);
        command.arg("build").arg(&image).arg("-o").arg(&output).args(["--bind", &repository, "-v"]);
        finish(command.env("SOURCE_DATE_EPOCH", EPOCH))
            .ok()
            .stderr_has(&["zz-update-grub", "container"]);
        let names = stage.sh(&format!("cpio -it --quiet <'{}'", output.display()));
        let mark = |name: &str| name == "run" || name.starts_with("run/");
        assert!(!names.lines().any(mark), "{names}");
        assert!(!stage.sh(&format!("cat '{}'", output.display())).contains("container=overcoat"));
    }
}

#[test]
fn pid_1_exposes_nothing_of_the_builder() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let mut command = stage.overcoat(who);
        let script = "tr '\\0' '\\n' </proc/1/environ; tr -d '\\0' </proc/1/cmdline; echo
            ls -A /proc/1/root/ | wc -l; ischroot && echo chroot";
        command.arg("run").arg(stage.debian()).args(["--", "sh", "-c", script]);
        command.env("SECRET_OF_THE_BUILDER", "s");
        let printed = finish(&mut command).ok().text();
        let lines: Vec<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines, ["container=overcoat", "overcoat-init", "0", "chroot"], "{who:?}");
    }
}

#[test]
fn unusable_device_is_reported_with_alternatives() {
    let stage = Stage::new();
    let run = |who: Who, script: &str| {
        let mut command = stage.overcoat(who);
        command.arg("run").arg(stage.debian()).args(["--", "sh", "-euc", script]);
        finish(&mut command).ok().stderr
    };
    let script = "mkdir -p /srv/jail/dev /srv/x; cd /srv/jail; mknod -m 600 /srv/x/sda b 8 0
        mknod -m 600 /srv/x/console c 5 1; mknod -m 666 dev/zero c 1 5; mknod -m 666 dev/tty c 5 0";
    let printed = run(Who::Unprivileged, script);
    let wanted = "overcoat: warning: the device /srv/jail/dev/zero is recorded for the image, but \
                  cannot be opened during a build without root; if a program must open it, run \
                  `mount --bind /dev/zero /srv/jail/dev/zero` before and `umount \
                  /srv/jail/dev/zero` after; a program that makes and opens it itself \
                  (debootstrap) requires a build as root, mmdebstrap does not\n";
    assert_eq!(printed, wanted);
    assert_eq!(run(Who::Root, script), "");
    // The suggested command works.
    let script = "mknod -m 666 /srv/null c 1 3; mount --bind /dev/null /srv/null
        echo x >/srv/null; umount /srv/null; rm /srv/null";
    run(Who::Unprivileged, script);
    let script = "mkdir /srv/jail; mknod -m 660 /srv/sda b 8 0; mkfifo /srv/jail/fifo";
    assert_eq!(run(Who::Unprivileged, script), "", "devices that are only recorded for the image");
    let script = "mkdir /srv/jail; mount --rbind / /srv/jail
        chroot /srv/jail sh -c 'cd /srv; mknod random c 1 8'; umount -l /srv/jail";
    assert!(run(Who::Unprivileged, script).contains("the device /srv/jail/srv/random is"));
}

#[test]
fn root_of_a_container_records_devices_and_has_a_network_of_its_own() {
    let stage = Stage::new();
    let output = stage.out(Who::Root).join("o.cpio.gz");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-mknod,-net_admin", "--"]).arg(stage.path("overcoat"));
    command.current_dir(stage.out(Who::Root)).env("TMPDIR", stage.temporary(Who::Root));
    command.args(["run", "--network", "none", "--save"]).arg(&output).arg(stage.debian());
    command.args(["--", "sh", "-ec", "mknod /srv/disk b 8 1; ls /sys/class/net"]);
    let finished = finish(&mut command).ok();
    assert_eq!(finished.text(), "lo\n");
    finished.stderr_has(&["no loopback interface", "CAP_NET_ADMIN"]);
    assert!(
        stage.archive_listing(&output).contains("8,   1"),
        "{}",
        stage.archive_listing(&output)
    );
}

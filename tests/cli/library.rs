//! The provisioners of the library, built from packages of the lab and tested in the merged root.
//!
//! The Python programs in `library/` run inside, and test functions that need no real machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::stage::{BOTH_USERS, EPOCH, Finished, REPOSITORY, Stage, Who, bind, finish};

/// The packages that debian-base configures and the base must have.
const SYSTEM: &str = "packages: [systemd-sysv, systemd-resolved, dbus, udev, kmod, netbase, iproute2, \
                      iputils-ping, curl, openssh-server]\n";

/// Bind-mounts a folder of the checkout where all users can reach it.
fn show(stage: &Stage, folder: &str) -> PathBuf {
    let shown = stage.path(folder);
    if !shown.exists() {
        fs::create_dir_all(&shown).unwrap();
        bind(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &shown);
    }
    shown
}

/// Builds `NAME.cpio` on the Debian base and `overlays`. A provisioner with a slash is a folder of
/// the stage; others are in the program's library.
fn build(
    stage: &Stage,
    who: Who,
    name: &str,
    overlays: &[&Path],
    provisioners: &[&str],
    variables: &str,
) -> (Finished, PathBuf) {
    stage.write("own/sources/provisioner.yml", "files: files\n");
    stage.write("own/sources/files/etc/apt/sources.list", REPOSITORY);
    let folders = provisioners.iter().map(|name| match name.contains('/') {
        true => (*name).to_owned(),
        false => format!("library:{name}"),
    });
    let folders: Vec<String> = std::iter::once("own/sources".to_owned()).chain(folders).collect();
    let image = format!(
        "base: {}\noverlays: {overlays:?}\nprovisioner: {folders:?}\nvariables: {{{variables}}}\n\
         network: none\n",
        stage.debian().display()
    );
    let image = stage.write(format!("{name}.yml"), image);
    let output = stage.out(who).join(format!("{name}.cpio"));
    let repository = stage.bind_repository();
    let mut command = stage.overcoat(who);
    command.arg("build").arg(image).arg("-o").arg(&output).args(["--bind", &repository]);
    command.args(["--no-manifest"]).env("SOURCE_DATE_EPOCH", EPOCH);
    (finish(&mut command), output)
}

/// Runs a script in the merged root, with `library/` bind-mounted on `/test`.
fn inside(stage: &Stage, who: Who, overlays: &[&Path], script: &str) -> Finished {
    let tests = format!("{}:/test:ro", show(stage, "tests/cli/library").display());
    let mut command = stage.overcoat(who);
    command.arg("run").arg(stage.debian()).args(overlays).args(["--bind", &tests]);
    command.args(["--network", "none", "--", "sh", "-euc", script]);
    finish(&mut command)
}

/// Checks the output of `systemctl is-enabled` for units.
fn assert_enabled(stage: &Stage, who: Who, overlays: &[&Path], units: &[(&str, &str)]) {
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    let script = format!(
        "for unit in {}; do echo $unit $(systemctl is-enabled $unit 2>&1 || :); done",
        names.join(" ")
    );
    let wanted: String = units.iter().map(|(name, state)| format!("{name} {state}\n")).collect();
    assert_eq!(inside(stage, who, overlays, &script).ok().text(), wanted);
}

/// Returns an overlay with systemd and other system packages, built once.
fn system(stage: &Stage) -> PathBuf {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        stage.write("own/system/provisioner.yml", SYSTEM);
        let (built, overlay) = build(stage, Who::Unprivileged, "system", &[], &["own/system"], "");
        built.ok();
        fs::read(overlay).unwrap()
    });
    stage.write("system.cpio", made)
}

#[test]
fn ssh_host_keys_are_generated_before_sshd_starts() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let system = system(&stage);
    let (built, keys) = build(&stage, who, "keys", &[&system], &["ssh-host-keys"], "");
    built.ok();
    assert_enabled(&stage, who, &[&system, &keys], &[("ssh-host-keys.service", "enabled")]);
    let unit = "cat /etc/systemd/system/ssh-host-keys.service";
    let unit = |overlay: &Path| inside(&stage, who, &[&system, overlay], unit).ok().text();
    // debian-base has a copy of the unit.
    let (built, base) = build(&stage, who, "base", &[&system], &["debian-base"], "");
    built.ok();
    assert_eq!(unit(&keys), unit(&base));
    let script = "systemd-analyze verify --man=no ssh-host-keys.service; ssh-keygen -A; mkdir /run/sshd; \
                  /usr/sbin/sshd -t";
    inside(&stage, who, &[&system, &keys], script).ok();
}

#[test]
fn debian_base_boots_from_the_network_and_runs_the_boot_hook() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let system = system(&stage);

    // Without variables: logins are disabled, and nothing is fetched.
    let (built, plain) = build(&stage, who, "plain", &[&system], &["debian-base"], "");
    built.ok();
    let units = [
        ("systemd-networkd.service", "enabled"),
        ("systemd-resolved.service", "enabled"),
        ("ssh.service", "enabled"),
        ("ssh-host-keys.service", "enabled"),
        ("apt-daily.timer", "masked"),
        ("boot-hook.service", "disabled"),
        ("serial-getty@ttyS0.service", "disabled"),
    ];
    assert_enabled(&stage, who, &[&system, &plain], &units);
    let script = "cat /etc/hostname; stat -c %a:%s /root/.ssh/authorized_keys; \
                  grep '^root:' /etc/shadow; ls /etc/ssh; ls -A /etc/.resolv* || :";
    let printed = inside(&stage, who, &[&system, &plain], script).ok().text();
    assert!(printed.starts_with("overcoat\n600:0\nroot:*:"), "{printed}");
    assert!(!printed.contains("_key") && !printed.contains("resolv"), "{printed}");

    // With all variables.
    let variables = "hostname: node1, ssh_authorized_keys: [ssh-ed25519 AAAA me], interfaces: [eth7], \
                     serial_console: ttyS0, root_password_hash: '$6$salt$hash', boot_hook: true, \
                     boot_hook_tries: 3";
    let (built, full) = build(&stage, who, "full", &[&system], &["debian-base"], variables);
    built.ok();
    let layers = [&*system, &*full];
    let units = [("boot-hook.service", "enabled"), ("serial-getty@ttyS0.service", "enabled")];
    assert_enabled(&stage, who, &layers, &units);
    let script = "cat /etc/hostname /root/.ssh/authorized_keys /etc/boot-hook.conf; \
                  grep '^root:' /etc/shadow; grep ^Name= /etc/systemd/network/95-dhcp.network; \
                  systemd-analyze verify --man=no boot-hook.service ssh-host-keys.service \
                      systemd-networkd-wait-online.service serial-getty@ttyS0.service; \
                  ssh-keygen -A >/dev/null; mkdir -p /run/sshd; sshd -t; python3 /test/boot_hook.py";
    let printed = inside(&stage, who, &layers, script).ok();
    let text = printed.text();
    for part in [
        "node1\nssh-ed25519 AAAA me\n",
        "\nTRIES=3\n",
        "\nroot:$6$salt$hash:",
        "\nName=eth7\n",
        "\nall checks passed\n",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(printed.stderr, "");

    // On an image without the required packages.
    let (built, _) = build(&stage, who, "bare", &[], &["debian-base"], "boot_hook: true");
    built.code(1).stderr_has(&["add to its packages: systemd-sysv", "openssh-server curl"]);
    let wrong = "serial_console: '/dev/ttyS0'";
    // The variables of an image on top of it override them.
    let (built, off) = build(&stage, who, "off", &layers, &["debian-base"], "");
    built.ok();
    assert_enabled(&stage, who, &[&system, &full, &off], &[("boot-hook.service", "disabled")]);
    let (built, _) = build(&stage, who, "wrong", &[&system], &["debian-base"], wrong);
    built.code(1).stderr_has(&["serial_console must be a device name"]);
}

#[test]
fn discovery_and_raid_tools_report_the_hardware() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let system = system(&stage);
    let variables = "lldp_interval: 10, discovery_url: 'http://boot/facts'";
    let (built, discovery) = build(&stage, who, "discovery", &[&system], &["discovery"], variables);
    built.ok();
    // On top of the other overlay.
    let under = [&*system, &*discovery];
    let (built, raid) = build(&stage, who, "raid", &under, &["raid-tools"], "");
    built.ok();
    let layers = [&*system, &*discovery, &*raid];
    let units = [
        ("discovery.service", "enabled"),
        ("lldpd.service", "enabled"),
        ("raid-inventory.service", "enabled"),
        ("mdmonitor.service", "masked"),
        ("nvmf-autoconnect.service", "disabled"),
    ];
    assert_enabled(&stage, who, &layers, &units);
    let script = "systemd-analyze verify --man=no discovery.service raid-inventory.service; \
                  cat /etc/mdadm/mdadm.conf; \
                  discover --print | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"version\"])'; \
                  raid-inventory | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"version\"])'; \
                  for tool in mdadm smartctl nvme sg_inq sdparm lsscsi hdparm; do \
                      $tool --version >/dev/null 2>&1 || $tool -V >/dev/null 2>&1 || echo no $tool; done; \
                  python3 /test/raid_inventory.py";
    let printed = inside(&stage, who, &layers, script).ok();
    let text = printed.text();
    assert!(
        text.contains("\nAUTO -all\n1\n1\n") && text.ends_with("all checks passed\n"),
        "{text}"
    );
    assert!(
        !text.contains("\nno ") && !printed.stderr.contains("service:"),
        "{text}{}",
        printed.stderr
    );

    let variables = "inventory_at_boot: false, auto_assemble: true";
    let (built, other) = build(&stage, who, "other", &layers, &["raid-tools"], variables);
    built.ok();
    let layers = [&*system, &*discovery, &*raid, &*other];
    assert_enabled(&stage, who, &layers, &[("raid-inventory.service", "disabled")]);
    inside(&stage, who, &layers, "grep -qx 'AUTO +all' /etc/mdadm/mdadm.conf").ok();
}

#[test]
fn secure_erase_erases_only_the_given_disks() {
    let stage = Stage::new();
    let (built, erase) = build(&stage, Who::Unprivileged, "erase", &[], &["secure-erase"], "");
    built.ok();
    let script = "for tool in hdparm nvme sg_sanitize sg_opcodes blkdiscard wipefs; do \
                      $tool --version >/dev/null 2>&1 || $tool -V >/dev/null; done; \
                  test ! -e /etc/systemd/system/default.target.wants/nvmf-autoconnect.service; \
                  secure-erase --help | grep -q -- --yes-erase; python3 /test/secure_erase.py";
    for who in BOTH_USERS {
        let printed = inside(&stage, who, &[&erase], script).ok().text();
        assert!(printed.ends_with("all checks passed\n"), "{printed}");
    }
}

#[test]
fn initrd_has_its_modules_and_the_same_bytes_at_both_privileges() {
    let stage = Stage::new();
    // An earlier provisioner adds hooks and scripts.
    stage.write("own/hooks/provisioner.yml", "files: files\n");
    let hook = "own/hooks/files/etc/initramfs-tools/hooks/mine";
    stage
        .write(hook, "#!/bin/sh\n[ \"$1\" = prereqs ] && exit\necho mine >\"$DESTDIR/etc/mine\"\n");
    let provisioners = ["own/hooks", "initrd"];
    let variables = "modules: [squashfs, overlay, loop, virtio_net, dm_mod, unix]";
    let overlays = BOTH_USERS.map(|who| {
        let (built, overlay) = build(&stage, who, "initrd", &[], &provisioners, variables);
        built.ok();
        overlay
    });
    let [root, user] = overlays.each_ref().map(|overlay| fs::read(overlay).unwrap());
    assert!(
        root == user,
        "{}",
        stage.sh("for w in root user; do \
        bsdtar -xOf $w/initrd.cpio 'boot/initrd*' | zstd -dc | bsdtar -tvf - >$w.list; done; \
        diff root.list user.list || :")
    );

    let initrd = &*overlays[1];
    let script = "cd /boot; ls; stat -c %a initrd*; lsinitramfs initrd.img-* >/tmp/list; \
                  for there in init usr/bin/busybox etc/mine; do grep -qx $there /tmp/list; done; \
                  for module in squashfs overlay loop virtio_net dm-mod e1000 ena nfs; do \
                      grep -q \"/$module[.]ko\" /tmp/list || echo no $module; done; \
                  unmkinitramfs initrd.img-* /tmp/x; cat /tmp/x/conf/modules /tmp/x/etc/mine; \
                  ls /tmp/x/conf/conf.d; ls -A /tmp /var/tmp";
    let text = inside(&stage, Who::Unprivileged, &[initrd], script).ok().text();
    let (files, rest) = text.split_once("\n644\n").unwrap();
    let names: Vec<&str> = files.lines().filter_map(|name| name.split('-').next()).collect();
    // There is no backup of an older initrd.
    assert_eq!(names, ["System.map", "config", "initrd.img", "vmlinuz"], "{text}");
    assert!(rest.contains("mine\n") && !rest.contains("mkinitramfs"), "{text}");

    // initramfs-tools would ignore a missing module silently.
    let variables = "kernel: '', modules: [squashfs, nonesuch]";
    let (built, _) = build(&stage, Who::Unprivileged, "no", &[initrd], &["initrd"], variables);
    built.code(1).stderr_has(&["has no module nonesuch"]);
    let (built, _) = build(&stage, Who::Unprivileged, "none", &[], &["initrd"], "kernel: ''");
    built.code(1).stderr_has(&["there is no kernel in /boot"]);
}

//! Scripts that run outside of the root: in the host's tree, with the root mounted at a folder, and
//! with the rights of commands inside.

use std::path::PathBuf;

use crate::support::stage::{EACH_PRIVILEGE, Finished, Stage, Who, finish};

/// Builds an overlay with one outside script.
fn build(stage: &Stage, who: Who, script: &str) -> (PathBuf, Finished) {
    stage.write("pack/script.sh", script);
    stage.write("pack/beside", "of the provisioner\n");
    let provisioner = "scripts: [{path: script.sh, outside: true}]\nvariables: {word: printed}\n";
    stage.write("pack/provisioner.yml", provisioner);
    let text = format!("base: {}\nprovisioner: pack\n", stage.debian().display());
    let image = stage.write("outside.yml", text);
    let output = stage.out(who).join("outside.cpio.gz");
    let mut command = stage.overcoat(who);
    command.arg("build").arg(image).arg("-o").arg(&output).env("TZ", "XYZ-9");
    (output, finish(&mut command))
}

#[test]
fn outside_script_uses_host_programs_on_the_root() {
    let stage = Stage::new();
    stage.write("hosts-program", "#!/bin/sh\nexec cat\n");
    let program = stage.path("hosts-program");
    let script = format!(
        "#!/bin/sh -eu
         cat beside | {} >$OVERCOAT_ROOT/root/made
         echo $OVERCOAT_VAR_word >>$OVERCOAT_ROOT/root/made
         echo $TZ >>$OVERCOAT_ROOT/root/made
         chown 3:4 $OVERCOAT_ROOT/root/made
         chroot $OVERCOAT_ROOT sh -c 'readlink /proc/self/root; ls /dev/null' >>$OVERCOAT_ROOT/root/made
         touch /tmp/of-the-host-$$ && rm /tmp/of-the-host-$$",
        program.display()
    );
    for who in EACH_PRIVILEGE {
        let (overlay, finished) = build(&stage, who, &script);
        finished.ok();
        let made = stage.archived_file(&overlay, "root/made");
        assert_eq!(made, "of the provisioner\nprinted\nUTC\n/\n/dev/null\n");
        let listed = stage.sh(&format!("gzip -dc '{}' | cpio -itv --quiet", overlay.display()));
        let line = listed.lines().find(|line| line.ends_with("root/made")).unwrap();
        assert!(line.contains(" sys ") && line.contains(" adm "), "{line}");
    }
}

#[test]
fn device_of_an_outside_script_is_reported_with_its_path_in_the_image() {
    let stage = Stage::new();
    for who in [Who::Unprivileged, Who::SingleId] {
        let (_, finished) =
            build(&stage, who, "#!/bin/sh -e\nmknod $OVERCOAT_ROOT/srv/null c 1 3\n");
        finished.ok().stderr_has(&["the device /srv/null is recorded", "/dev/null /srv/null`"]);
    }
}

#[test]
fn outside_script_has_only_the_rights_of_its_user() {
    let stage = Stage::new();
    let secret = stage.write("secret", "");
    stage.sh(&format!("chmod 600 '{}'", secret.display()));
    let script = format!(
        "#!/bin/sh
         cat '{0}' && exit 3
         echo x >'{0}' && exit 4
         mount -t tmpfs none /root && exit 0
         exit 5",
        secret.display()
    );
    let (_, finished) = build(&stage, Who::Unprivileged, &script);
    // Its mounts are visible only to the script.
    finished.ok();
    assert!(!Stage::mounts().contains(" /root "));
}

#[test]
fn failed_outside_script_fails_the_build() {
    let stage = Stage::new();
    for who in EACH_PRIVILEGE {
        let (overlay, finished) = build(&stage, who, "#!/bin/sh\necho why >&2; exit 9\n");
        finished.code(1).stderr_has(&["script script.sh (outside)", "exit code 9", "| why"]);
        assert!(!overlay.exists());
    }
}

#[test]
fn programs_inside_cannot_enter_the_host_mount_namespace() {
    let stage = Stage::new();
    let host = stage.write("of-the-host", "");
    for who in EACH_PRIVILEGE {
        let mut command = stage.overcoat(who);
        // No descriptor of pid 1 gives access to another mount namespace.
        let script = "for fd in /proc/1/fd/* /proc/1/ns/mnt; do
                nsenter --mount=$fd test -e $0 2>/dev/null && exit 3
            done
            test -e $0 || test -e /proc/1/root/$0 && exit 4
            exit 0";
        command.arg("run").arg(stage.debian()).args(["--", "sh", "-c", script]).arg(&host);
        finish(&mut command).ok();
    }
}

//! Images that machines boot: marks of containers, kernels for virtual machines.

use std::fs;

use serde_json::Value;

use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};

fn overcoat(stage: &Stage, who: Who, arguments: &[&str]) -> Finished {
    finish(stage.overcoat(who).args(arguments))
}

#[test]
fn base_from_a_container_root_has_no_container_marks() {
    let stage = Stage::new();
    stage.sh(
        "mkdir -p r/etc r/run/lock r/run/systemd r/run/secrets/keys r/proc/1 r/sys/fs r/.singularity.d/env r/var/run
         echo ID=toy >r/etc/os-release
         touch r/.dockerenv r/run/.containerenv r/proc/1/environ
         echo docker >r/run/systemd/container
         ln -s .singularity.d/runscript r/singularity
         ln -s etc/os-release r/release
         touch -d @1000000000 r r/run r/run/lock r/etc r/proc
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"r/var/run/dead\")'
         touch -d @1000000000 r/var/run
         tar -C r --owner=0 --group=0 -cf r.tar .
         mksquashfs r r.squashfs -all-root -quiet -no-progress",
    );
    let who = Who::Unprivileged;
    for (from, has_sockets) in [("r.tar", false), ("r.squashfs", true), ("r", true)] {
        let yaml = format!("kind: base\nfrom: {from}\noutput: user/taken.squashfs\n");
        let file = stage.write("taken.yml", yaml).display().to_string();
        let printed = overcoat(&stage, who, &["base", &file]).ok();
        let line = printed.stderr.lines().find(|line| line.contains("removed files")).unwrap();
        let mut removed = vec![
            "/.dockerenv",
            "/.singularity.d",
            "/proc/1",
            "/run/.containerenv",
            "/run/secrets",
            "/run/systemd/container",
            "/singularity",
            "/sys/fs",
        ];
        let listed = overcoat(&stage, who, &["ls", "-R", "taken.squashfs"]).ok().text();
        assert!(
            !listed.lines().any(|path| removed.contains(&format!("/{path}").as_str())),
            "{listed}"
        );
        assert!(!listed.contains("dead"), "{listed}");
        for kept in
            ["etc/os-release", "proc", "release", "run/lock", "run/systemd", "sys", "var/run"]
        {
            assert!(listed.lines().any(|path| path == kept), "{from}: {kept}\n{listed}");
        }
        if has_sockets {
            removed.push("/var/run/dead");
        }
        for path in removed {
            assert!(line.contains(path), "{from}: {path}\n{line}");
        }
        // The directories keep their times.
        for dir in ["run", "proc", "var/run"] {
            let dir = format!(":/{dir}");
            let stat = overcoat(&stage, who, &["stat", "--json", "taken.squashfs", &dir]).ok();
            assert!(stat.text().contains("1000000000"), "{from}: {dir}\n{}", stat.text());
        }
        let found =
            overcoat(&stage, who, &["check", "--only", "works/container", "taken.squashfs"]);
        assert_eq!(found.ok().text(), "");
    }
    // An image that is used directly keeps the marks, and `check` reports them.
    let whole = ["check", "--whole", "--only", "works/container", "--json"];
    let image = stage.path("r.squashfs").display().to_string();
    let found = overcoat(&stage, who, &[&whole[..], &[&image]].concat()).ok();
    let report: Value = serde_json::from_slice(&found.stdout).unwrap();
    let findings = report["checks"][0]["findings"].as_array().unwrap();
    let paths: Vec<_> = findings.iter().map(|finding| finding["path"].as_str().unwrap()).collect();
    let wanted = [
        "/.dockerenv",
        "/.singularity.d",
        "/run/.containerenv",
        "/run/secrets",
        "/run/systemd/container",
    ];
    assert_eq!(paths, wanted);
}

#[test]
fn kernel_without_hardware_drivers_is_warned_about_once() {
    let stage = Stage::new();
    let module = |name: &str| {
        let dir = "own/files/usr/lib/modules/6.1.0-9/kernel/drivers";
        stage.write(format!("{dir}/{name}.ko"), "module");
        stage.write("own/files/boot/vmlinuz-6.1.0-9", "kernel");
    };
    module("virtio_net");
    module("mlx5_core");
    stage.write("own/provisioner.yml", "files: files\n");
    let base = stage.debian();
    let base = base.display();
    let cleanup = "cleanup: {all: false}\nnetwork: none\n";
    stage.write("over.yml", format!("base: {base}\nprovisioner: own\n{cleanup}"));
    let initrd = format!(
        "kind: initrd\nbase: {base}\nprovisioner: own\noutput: out\n{cleanup}\
         yields: {{kernel: /boot/vmlinuz-*}}\n"
    );
    let warned = |who, arguments: &[&str]| {
        let printed = overcoat(&stage, who, arguments).ok();
        printed.stderr.lines().filter(|line| line.contains("6.1.0-9 has no driver")).count()
    };
    let file = |name: &str| stage.path(name).display().to_string();
    for who in BOTH_USERS {
        let out = stage.out(who).join("over.cpio").display().to_string();
        let build = ["build", &file("over.yml"), "-o", &out];
        assert_eq!(warned(who, &build), 1);
        // The kernel is in a layer already.
        let again = format!(
            "base: {base}\noverlays: [{out}]\nprovisioner: own\noutput: again.cpio\n{cleanup}"
        );
        fs::write(stage.out(who).join("again.yml"), again.replace("own", &file("own"))).unwrap();
        assert_eq!(warned(who, &["build", "again.yml"]), 0);
        let text = initrd.replace("output: out", "output: .").replace("own", &file("own"));
        fs::write(stage.out(who).join("initrd.yml"), text).unwrap();
        assert_eq!(warned(who, &["build", "initrd.yml"]), 1);
    }
    module("e1000e");
    let out = stage.out(Who::Root).join("over.cpio").display().to_string();
    assert_eq!(warned(Who::Root, &["build", &file("over.yml"), "-o", &out]), 0);
}

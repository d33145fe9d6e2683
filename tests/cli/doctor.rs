//! `doctor`: each requirement is removed in turn; the report names it and the fix.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::USER;
use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};

/// Runs `doctor` as `who` after root ran `breaking` in the stage's mount namespace.
fn examined(breaking: &str, who: Who) -> Report {
    // The changes affect only this thread's mount namespace, and processes that it starts.
    let alone = || {
        let stage = Stage::new();
        stage.sh(breaking);
        if !breaking.contains("ansible") {
            // Querying Ansible takes most of the time.
            stage.sh(&hide("ansible-playbook"));
        }
        let command = stage.overcoat(who);
        ask(&stage, who, command)
    };
    std::thread::scope(|scope| scope.spawn(alone).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ask(stage: &Stage, who: Who, mut command: Command) -> Report {
    command.env("HOME", stage.temporary(who)).args(["doctor", "--json"]);
    let finished = finish(&mut command);
    let json: Value = serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    assert_eq!(json["schema"], 2);
    assert!(!Stage::mounts().contains("fuse.overcoat"), "{}", Stage::mounts());
    Report { finished, json }
}

struct Report {
    finished: Finished,
    json: Value,
}

impl Report {
    /// Checks that finding `name` has this state and contains all `parts`; returns the report.
    fn has(self, name: &str, state: &str, parts: &[&str]) -> Self {
        let findings = self.json["findings"].as_array().unwrap();
        let found: Vec<_> = findings.iter().filter(|finding| finding["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}: {:#}", self.json);
        assert_eq!(found[0]["state"], state, "{:#}", self.json);
        let text = found[0].to_string();
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        self
    }

    /// Checks the exit code, and that it agrees with the report.
    fn code(self, code: i32) -> Self {
        assert_eq!(self.json["ready"], code == 0, "{:#}", self.json);
        assert_eq!(self.finished.code, code, "{:#}", self.json);
        self
    }
}

const HIDE_DEVICE: &str = "
    mkdir dev; mount -t tmpfs -o mode=755 dev dev
    for name in null zero full random urandom tty; do cp -a /dev/$name dev/; done";

#[test]
fn complete_machine_is_ready() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let mut report = ask(&stage, who, stage.overcoat(who)).code(0);
        let needed = match who {
            Who::Root => &["rights", "seccomp"][..],
            _ => &["user_namespaces", "id_programs", "subordinate_ids", "seccomp"],
        };
        let common = ["kernel", "fuse", "privilege", "root", "mount", "mksquashfs"];
        for name in needed.iter().chain(&common) {
            report = report.has(name, "works", &[]);
        }
        report.has("mmdebstrap", "works", &["mmdebstrap 1"]).has("ansible", "works", &["core"]);
        assert!(stage.files(who).is_empty(), "{:?}", stage.files(who));
        let text = finish(stage.overcoat(who).arg("doctor")).ok().text();
        assert!(text.contains("\nimages can be built here"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}

#[test]
fn missing_fuse_device_suggests_loading_the_module() {
    for who in BOTH_USERS {
        examined(&format!("{HIDE_DEVICE}\nmount --bind dev /dev"), who)
            .code(1)
            .has("fuse", "fault", &["/dev/fuse is missing", "\"modprobe fuse\"", "--device"])
            .has("root", "untried", &[])
            .has("mount", "untried", &[]);
    }
}

#[test]
fn fuse_device_for_root_only_suggests_chmod() {
    let breaking =
        format!("{HIDE_DEVICE}\ncp -a /dev/fuse dev/; chmod 600 dev/fuse; mount --bind dev /dev");
    let parts = ["Permission denied", "\"chmod 666 /dev/fuse\""];
    examined(&breaking, Who::Unprivileged).code(1).has("fuse", "fault", &parts);
}

#[test]
fn missing_newuidmap_suggests_its_package() {
    for program in ["newuidmap", "newgidmap"] {
        let parts =
            [&format!("`{program}` is not installed"), "\"apt install uidmap\"", "a single id"];
        examined(&hide(program), Who::Unprivileged)
            .code(0)
            .has("id_programs", "lacks", &parts)
            .has("privilege", "works", &["`none`"])
            .has("root", "works", &[]);
        // Root does not need it.
        examined(&hide(program), Who::Root).code(0);
    }
}

/// Returns a command that hides a program behind a device node.
fn hide(program: &str) -> String {
    format!("mount --bind /dev/null \"$(command -v {program})\"")
}

/// Returns a command that removes the setuid bit and the capabilities of a program.
fn strip(program: &str) -> String {
    format!("f=$(command -v {program}); cat $f >copy; chmod 755 copy; mount --bind copy $f")
}

#[test]
fn newuidmap_without_setuid_suggests_reinstalling() {
    let parts = ["is not setuid", "\"apt install --reinstall uidmap\""];
    examined(&strip("newuidmap"), Who::Unprivileged)
        .code(0)
        .has("subordinate_ids", "lacks", &parts)
        .has("root", "works", &[]);
}

#[test]
fn no_new_privs_is_reported() {
    let stage = Stage::new();
    let mut command = Command::new("setpriv");
    let program = stage.path("overcoat");
    command.args(["--no-new-privs", "--reuid", USER, "--regid", USER, "--init-groups", "--"]);
    command.arg(program).current_dir(stage.out(Who::Unprivileged));
    command.env("TMPDIR", stage.temporary(Who::Unprivileged));
    ask(&stage, Who::Unprivileged, command)
        .code(0)
        .has("subordinate_ids", "lacks", &["no_new_privs"])
        .has("root", "works", &[])
        .has("mount", "lacks", &[]);
}

#[test]
fn missing_subordinate_ids_suggest_a_free_range() {
    let breaking = "
        printf 'bob:100000:65536\\ncarol:231072:1000\\n' >ids
        mount --bind ids /etc/subuid; mount --bind ids /etc/subgid";
    let command =
        format!("\"usermod --add-subuids 232072-297607 --add-subgids 232072-297607 {USER}\"");
    examined(breaking, Who::Unprivileged)
        .code(0)
        .has("subordinate_ids", "lacks", &[&command, "/etc/subuid"])
        .has("privilege", "works", &["`none`"])
        .has("root", "works", &[]);
}

#[test]
fn few_subordinate_ids_suffice_to_build() {
    let breaking = format!(
        "echo {USER}:100000:1000 >ids; mount --bind ids /etc/subuid; mount --bind ids /etc/subgid"
    );
    examined(&breaking, Who::Unprivileged)
        .code(0)
        .has("subordinate_ids", "note", &["1000 ids", "65535"])
        .has("root", "works", &[]);
}

#[test]
fn setting_that_forbids_user_namespaces_is_named() {
    let stage = Stage::new();
    // A namespace with all ids, so that the setting affects only the processes inside.
    let script = "
        mkfifo made mapped
        unshare --user --mount sh -euc 'echo >made; read _ <mapped; exec \"$@\"' sh sh -euc '
          echo 0 >/proc/sys/user/max_user_namespaces
          cd user
          exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups -- env \
            TMPDIR=$PWD/../user.tmp HOME=/ ../overcoat doctor --json
        ' sh \"$(id -u overcoat-test)\" >out 2>err &
        read _ <made
        echo 0 0 4294967295 >/proc/$!/uid_map; echo 0 0 4294967295 >/proc/$!/gid_map
        echo >mapped
        if wait $!; then echo 0; else echo $?; fi";
    let code: i32 = stage.sh(script).trim().parse().unwrap();
    let stderr = fs::read_to_string(stage.path("err")).unwrap();
    let json = serde_json::from_slice(&fs::read(stage.path("out")).unwrap());
    let json: Value = json.unwrap_or_else(|error| panic!("{error}: {stderr}"));
    let (command, stdout) = (String::new(), Vec::new());
    let finished = Finished { command, code, stdout, stderr };
    let parts = ["user.max_user_namespaces = 0", "\"sysctl -w user.max_user_namespaces=10000\""];
    Report { finished, json }
        .code(1)
        .has("user_namespaces", "fault", &parts)
        .has("subordinate_ids", "untried", &[])
        .has("root", "untried", &[]);
}

#[test]
fn root_without_the_right_to_mount_uses_a_user_namespace() {
    let stage = Stage::new();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--"]).arg(stage.path("overcoat"));
    command.current_dir(stage.out(Who::Root)).env("TMPDIR", stage.temporary(Who::Root));
    ask(&stage, Who::Root, command)
        .code(0)
        .has("rights", "lacks", &["CAP_SYS_ADMIN"])
        .has("privilege", "works", &["`subordinate`"])
        .has("root", "works", &[]);
}

#[test]
fn missing_fusermount3_affects_only_mount() {
    let who = Who::Unprivileged;
    let parts = ["`fusermount3` is not installed", "\"apt install fuse3\""];
    examined(&hide("fusermount3"), who).code(0).has("mount", "lacks", &parts);
    let parts = ["\"apt install --reinstall fuse3\""];
    examined(&strip("fusermount3"), who).code(0).has("mount", "lacks", &parts);
    let breaking = "echo user_allow_other >conf; mount --bind conf /etc/fuse.conf";
    examined(breaking, who).code(0).has("shared_mounts", "works", &[]);
    let breaking = "echo >conf; mount --bind conf /etc/fuse.conf";
    let parts = ["\"echo user_allow_other >>/etc/fuse.conf\""];
    examined(breaking, who).code(0).has("shared_mounts", "lacks", &parts);
}

#[test]
fn missing_optional_programs_suggest_their_packages() {
    let programs = ["mmdebstrap", "mksquashfs", "ansible-playbook"];
    let breaking = programs.map(hide).join("\n");
    examined(&breaking, Who::Unprivileged)
        .code(0)
        .has("mmdebstrap", "lacks", &["\"apt install mmdebstrap\"", "base"])
        .has("mksquashfs", "lacks", &["\"apt install squashfs-tools\"", "base"])
        .has("ansible", "lacks", &["\"apt install ansible\"", "role"]);
}

#[test]
fn incompatible_programs_are_detected() {
    let breaking = r#"
        cat >old <<'END'
#!/bin/sh
[ "$1" = -version ] && { echo 'mksquashfs version 4.4 (2019/08/29)'; exit 1; }
echo 'mksquashfs: invalid option -tar' >&2; exit 1
END
        cat >empty <<'END'
#!/bin/sh
echo '{}'
END
        chmod 755 old empty
        mount --bind old "$(command -v mksquashfs)"
        mount --bind empty "$(command -v ansible-doc)""#;
    examined(breaking, Who::Unprivileged)
        .code(0)
        .has("mksquashfs", "lacks", &["version 4.4", "invalid option", "4.5 or newer"])
        .has("ansible", "lacks", &["without community.general.chroot", "ansible-galaxy"]);
}

#[test]
fn masked_proc_and_low_memory_are_noted() {
    let breaking = "
        mount --bind /dev/null /proc/keys
        sed 's/^MemAvailable:.*/MemAvailable: 200000 kB/' /proc/meminfo >memory
        mount --bind memory /proc/meminfo";
    for who in BOTH_USERS {
        examined(breaking, who)
            .code(0)
            .has("container", "note", &["masked"])
            .has("memory", "note", &["0.2 GB", "--upper-size"])
            .has("root", "works", &[]);
    }
}

/// The group of /dev/kvm has any name, and sometimes no rights or no name.
#[test]
fn access_to_kvm_is_advised_by_its_owner_and_mode() {
    let device = |owner: &str, mode: &str| {
        format!(
            "{HIDE_DEVICE}\ncp -a /dev/fuse dev/; mknod -m {mode} dev/kvm c 10 232
             chown {owner} dev/kvm; mount --bind dev /dev; {}",
            hide("setfacl || echo /dev/null")
        )
    };
    let kvm = |owner: &str, mode: &str, parts: &[&str]| {
        examined(&device(owner, mode), Who::Unprivileged).code(0).has("kvm", "lacks", parts);
    };
    let user = format!("--groups audio {USER}\"");
    kvm("root:audio", "660", &["usermod", &user, "log in again"]);
    kvm("root:audio", "600", &["\"chmod 666 /dev/kvm\""]);
    kvm("root:root", "660", &["\"chmod 666 /dev/kvm\""]);
    kvm("root:4711", "660", &["\"chmod 666 /dev/kvm\""]);
}

#[test]
fn missing_qemu_affects_only_boot() {
    let qemu = "qemu-system-x86_64";
    let script = format!("command -v {qemu} >/dev/null && echo yes || :");
    if Stage::new().sh(&script).is_empty() {
        // This machine is set up without the tests that boot, and has no QEMU.
        let parts = ["qemu-system-x86 ipxe-qemu", "boot"];
        examined("", Who::Unprivileged).code(0).has("qemu", "lacks", &parts);
        return;
    }
    let parts = ["\"apt install --no-install-recommends qemu-system-x86 ipxe-qemu\""];
    examined(&hide(qemu), Who::Unprivileged).code(0).has("qemu", "lacks", &parts);
    let breaking = "mount -t tmpfs none /usr/lib/ipxe/qemu";
    let parts = ["rom", "\"apt install ipxe-qemu\""];
    examined(breaking, Who::Unprivileged).code(0).has("qemu", "lacks", &parts);
}

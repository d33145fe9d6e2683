//! Builds in containers of podman, at each combination of options that docs/CONTAINERS.md lists.
//!
//! The containers run with runc and the network of the host. `make containers` installs both.

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use support::stage::{EPOCH, Finished, Stage, Who, finish};

/// The image of the containers: the lab's base, which has no subordinate ids and no `newuidmap`.
const IMAGE: &str = "localhost/overcoat-test-base";

/// Changes owners, devices and set-id bits, and becomes another user.
const SCRIPT: &str = "
    mkdir /srv/d; chown 5:7 /srv/d; chmod 2755 /srv/d; mknod /srv/disk b 8 1; chown 200001 /srv/disk
    setpriv --reuid 5 --regid 7 --clear-groups sh -c 'id -u >/srv/d/id; id -g >>/srv/d/id'
    stat -c '%u:%g %a %t:%T' /srv/d /srv/disk /srv/d/id /etc/shadow";
const SHOWN: &str = "5:7 2755 0:0\n200001:0 644 8:1\n5:7 644 0:0\n0:42 640 0:0\n";

/// What a build in a container leads to.
enum Outcome {
    /// The build fails with a message that contains this.
    Fails(&'static str),
    /// The build has this privilege.
    Works(&'static str),
}
use Outcome::{Fails, Works};

const UNCONFINED: [&str; 4] = ["--device", "/dev/fuse", "--security-opt", "seccomp=unconfined"];

struct Containers {
    stage: Stage,
}

impl Containers {
    fn new() -> Self {
        let stage = Stage::new();
        // The containers of a user of the tests have their own storage, which ends with the stage.
        let base = support::lab::file("base.tar");
        let containers = Containers { stage };
        finish(containers.podman().arg("import").arg(base).arg(IMAGE)).ok();
        containers
    }

    fn podman(&self) -> Command {
        let mut command = self.stage.command(Who::Root, "podman");
        command.arg("--root").arg(self.stage.path("storage"));
        command.arg("--runroot").arg(self.stage.path("run"));
        command.args(["--storage-driver", "vfs", "--runtime", "runc"]);
        command
    }

    /// Runs overcoat in a container that is started with `options`.
    fn overcoat(&self, options: &[&str], arguments: &[&str]) -> Finished {
        let mut command = self.podman();
        let shown = |path: &Path, at: &str| format!("{}:{at}:ro", path.display());
        command.args(["run", "--rm", "--network", "host"]);
        // podman's own limits can be above those of the machine.
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--volume"]);
        command.arg(shown(&self.stage.path("overcoat"), "/usr/bin/overcoat")).arg("--volume");
        command.arg(shown(&self.stage.lab(), "/lab")).args(options);
        command.arg("--env").arg(format!("SOURCE_DATE_EPOCH={EPOCH}"));
        finish(command.args([IMAGE, "overcoat"]).args(arguments))
    }
}

#[test]
fn builds_in_containers_have_the_same_bytes() {
    let containers = Containers::new();
    let with = |more: &[&'static str]| [&UNCONFINED, more].concat();
    let sys_admin = ["--device", "/dev/fuse", "--cap-add", "SYS_ADMIN"];
    let user = ["--user", "1234:1234"];
    let rows: Vec<(Vec<&str>, Outcome)> = vec![
        (vec![], Fails("/dev/fuse is missing")),
        (vec!["--device", "/dev/fuse"], Fails("--security-opt seccomp=unconfined")),
        (with(&[]), Works("subordinate")),
        (with(&user), Works("none")),
        (with(&[&user[..], &["--security-opt", "no-new-privileges"]].concat()), Works("none")),
        (with(&[&user[..], &["--cap-drop", "all"]].concat()), Works("none")),
        (with(&["--cap-drop", "all"]), Fails("--cap-add SETFCAP")),
        (with(&["--cap-drop", "all", "--cap-add", "SETFCAP"]), Works("none")),
        (sys_admin.to_vec(), Works("root")),
        ([&sys_admin[..], &["--cap-drop", "MKNOD,NET_ADMIN"]].concat(), Works("root")),
        (vec!["--privileged"], Works("root")),
    ];
    let mut digest = None;
    for (options, outcome) in rows {
        let save = ["run", "/lab/base.squashfs", "--save", "/tmp/x.cpio.gz", "--json"];
        let words = ["--network", "none", "--", "sh", "-euc", SCRIPT];
        let done = containers.overcoat(&options, &[&save[..], &words].concat());
        match outcome {
            Fails(message) => drop(done.code(2).stderr_has(&[message])),
            Works(privilege) => {
                let report: serde_json::Value = serde_json::from_str(&done.ok().text()).unwrap();
                assert_eq!(report["privilege"], privilege, "{options:?}");
                let expected = digest.get_or_insert_with(|| report["sha256"].clone());
                assert_eq!(&report["sha256"], expected, "{options:?}");
            }
        }
    }
}

#[test]
fn programs_in_containers_see_what_they_set() {
    let containers = Containers::new();
    for options in [&["--privileged"][..], &[&UNCONFINED[..], &["--user", "1234"]].concat()] {
        let words = ["run", "/lab/base.squashfs", "--", "sh", "-euc", SCRIPT];
        assert_eq!(containers.overcoat(options, &words).ok().text(), SHOWN, "{options:?}");
    }
}

#[test]
fn doctor_reports_the_state_of_containers() {
    let containers = Containers::new();
    let user = [&UNCONFINED[..], &["--user", "1234"]].concat();
    let done = containers.overcoat(&user, &["doctor"]).ok();
    assert!(done.text().contains("commands use the privilege `none`"), "{}", done.text());
    let done = containers.overcoat(&[], &["doctor"]).code(1);
    assert!(done.text().contains("--device /dev/fuse"), "{}", done.text());
}

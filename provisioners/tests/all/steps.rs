//! Runs steps in a root with a shell: files, attributes, packages and scripts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use crate::common::{Directory, chain, root_with_shell, write_files};
use provisioners::machine::{Machine, Time};
use provisioners::{Observer, Options, Plan, Provisioner, StepFailed, StepInfo};

const NO_CLEANUP: &str = "\ncleanup: {all: false}\n";

/// Runs a provisioner with these files in a root.
fn provision(
    machine: &mut Directory,
    files: &[(&str, &str)],
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<(), Box<StepFailed>> {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), files);
    let provisioner = Provisioner::load(dir.path()).unwrap();
    let plan = Plan::new(&[provisioner]).unwrap();
    plan.run(machine, options, observer)
}

fn with_yaml<'a>(yaml: &'a str, files: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("provisioner.yml", yaml)];
    all.extend(files);
    all
}

#[derive(Default)]
struct Recorder {
    events: Vec<String>,
    output: Vec<u8>,
}

impl Observer for Recorder {
    fn started(&mut self, step: &StepInfo) {
        self.events.push(format!("started {} {}/{}", step.name, step.index + 1, step.total));
    }
    fn finished(&mut self, step: &StepInfo, _: Duration) {
        self.events.push(format!("finished {}", step.name));
    }
    fn failed(&mut self, step: &StepInfo, _: Duration) {
        self.events.push(format!("failed {}", step.name));
    }
    fn output(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }
}

#[test]
fn copied_files_do_not_depend_on_modes_of_the_checkout() {
    let root = root_with_shell();
    let mut machine = Directory::new(root.path());
    let yaml = "files: files\ncleanup: {all: false}";
    let dir = tempfile::tempdir().unwrap();
    write_files(
        dir.path(),
        &with_yaml(
            yaml,
            &[
                ("files/etc/new/a.conf", "a"),
                ("files/usr/local/sbin/tool*", "#!/bin/sh\n"),
                ("files/var/spool/empty/.gitkeep", ""),
                ("files/lib/udev/rules", "r"),
            ],
        ),
    );
    let files = dir.path().join("files");
    let mode = |path: &str, bits| {
        fs::set_permissions(files.join(path), fs::Permissions::from_mode(bits)).unwrap();
    };
    mode("etc/new/a.conf", 0o600);
    mode("usr/local/sbin/tool", 0o700);
    mode("etc/new", 0o700);
    symlink("a.conf", files.join("etc/new/link")).unwrap();

    let options = Options { source_date_epoch: Some(1_700_000_000), ..Options::default() };
    let plan = Plan::new(&[Provisioner::load(dir.path()).unwrap()]).unwrap();
    plan.run(&mut machine, &options, &mut ()).unwrap();

    let stat = |path: &str| machine.stat(Path::new(path)).unwrap().unwrap();
    assert_eq!(stat("/etc/new/a.conf").mode, 0o644);
    assert_eq!(stat("/usr/local/sbin/tool").mode, 0o755);
    assert_eq!(stat("/etc/new").mode, 0o755);
    assert_eq!((stat("/etc/new/a.conf").uid, stat("/etc/new/a.conf").gid), (0, 0));
    assert_eq!(stat("/etc/new/a.conf").mtime, Time { seconds: 1_700_000_000, nanoseconds: 0 });
    assert_eq!(fs::read_link(root.path().join("etc/new/link")).unwrap(), Path::new("a.conf"));
    assert!(machine.list(Path::new("/var/spool/empty")).unwrap().is_empty());
    // /lib is still a link into /usr.
    assert_eq!(fs::read_link(root.path().join("lib")).unwrap(), Path::new("usr/lib"));
    assert_eq!(fs::read(root.path().join("usr/lib/udev/rules")).unwrap(), b"r");
}

#[test]
fn file_keeps_its_mtime_without_epoch() {
    let root = root_with_shell();
    let mut machine = Directory::new(root.path());
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &with_yaml("files: files", &[("files/etc/a", "a")]));
    let file = fs::File::open(dir.path().join("files/etc/a")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::new(1_600_000_000, 5)).unwrap();
    let plan = Plan::new(&[Provisioner::load(dir.path()).unwrap()]).unwrap();
    plan.run(&mut machine, &Options::default(), &mut ()).unwrap();
    let mtime = machine.stat(Path::new("/etc/a")).unwrap().unwrap().mtime;
    assert_eq!(mtime, Time { seconds: 1_600_000_000, nanoseconds: 5 });
}

#[test]
fn existing_directories_keep_their_attributes_and_links_are_replaced() {
    let root = root_with_shell();
    symlink("/nowhere", root.path().join("etc/resolv.conf")).unwrap();
    let mut machine = Directory::new(root.path());
    let yaml = "files: files\ncleanup: {all: false}";
    let files = with_yaml(yaml, &[("files/tmp/x/y", "y"), ("files/etc/resolv.conf", "n\n")]);
    provision(&mut machine, &files, &Options::default(), &mut ()).unwrap();
    assert_eq!(fs::metadata(root.path().join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::read(root.path().join("etc/resolv.conf")).unwrap(), b"n\n");
}

#[test]
fn a_file_never_replaces_a_directory() {
    let root = root_with_shell();
    let mut machine = Directory::new(root.path());
    let files = with_yaml("files: files", &[("files/usr/lib/udev", "no")]);
    let error = provision(&mut machine, &files, &Options::default(), &mut ()).unwrap_err();
    assert_eq!(
        chain(&*error).lines().collect::<Vec<_>>(),
        ["the step \"files\" failed: cannot write /usr/lib/udev: Is a directory (os error 21)"]
    );
}

#[test]
fn templates_are_rendered_and_lose_their_suffix() {
    let root = root_with_shell();
    let mut machine = Directory::new(root.path());
    let yaml = format!("variables: {{interval: 30, hosts: [a, b]}}\nfiles: files{NO_CLEANUP}");
    let template = "tx {{ interval }}\n{% for h in hosts %}\nhost {{ h }}\n{% endfor %}\n";
    let files = with_yaml(&yaml, &[("files/etc/lldpd.d/x.conf.j2", template)]);
    provision(&mut machine, &files, &Options::default(), &mut ()).unwrap();
    let text = fs::read_to_string(root.path().join("etc/lldpd.d/x.conf")).unwrap();
    assert_eq!(text, "tx 30\nhost a\nhost b\n");
}

#[test]
fn template_mistake_is_found_before_any_step_runs() {
    let dir = tempfile::tempdir().unwrap();
    write_files(
        dir.path(),
        &with_yaml("packages: [x-tools]\nfiles: files", &[("files/etc/a.j2", "\n{{ nope }}\n")]),
    );
    let error = Plan::new(&[Provisioner::load(dir.path()).unwrap()]).unwrap_err();
    let text = chain(&error).replace(&dir.path().display().to_string(), "DIR");
    assert!(text.contains("DIR/files/etc/a.j2:2: `nope` is undefined"), "{text}");
}

#[test]
fn two_files_with_the_same_destination_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    write_files(
        dir.path(),
        &with_yaml("files: files", &[("files/etc/a", ""), ("files/etc/a.j2", "")]),
    );
    let error = Plan::new(&[Provisioner::load(dir.path()).unwrap()]).unwrap_err();
    let text = chain(&error);
    assert!(text.ends_with("have the same destination /etc/a"), "{text}");
}

#[test]
fn attributes_are_set_by_name_number_and_pattern() {
    let root = root_with_shell();
    let mut machine = Directory::new(root.path());
    let yaml = "files: files
attributes:
  /etc/discovery/**: {owner: root, group: adm, mode: \"0640\"}
  /etc/discovery/key: {mode: 0600}
  /lib/*/rules: {owner: lldpd, group: 4242}
  /usr/local/bin/su: {mode: \"4755\"}
cleanup: {all: false}";
    let files = [
        ("files/etc/discovery/a/b.conf", ""),
        ("files/etc/discovery/key", ""),
        ("files/usr/lib/udev/rules", ""),
        ("files/usr/local/bin/su*", ""),
    ];
    provision(&mut machine, &with_yaml(yaml, &files), &Options::default(), &mut ()).unwrap();
    let of = |path: &str| {
        let stat = machine.stat(Path::new(path)).unwrap().unwrap();
        (stat.uid, stat.gid, stat.mode)
    };
    assert_eq!(of("/etc/discovery"), (0, 4, 0o750));
    assert_eq!(of("/etc/discovery/a"), (0, 4, 0o750));
    assert_eq!(of("/etc/discovery/a/b.conf"), (0, 4, 0o640));
    assert_eq!(of("/etc/discovery/key"), (0, 4, 0o600));
    assert_eq!(of("/usr/lib/udev/rules"), (104, 4242, 0o644));
    assert_eq!(of("/usr/local/bin/su"), (0, 0, 0o4755));
}

#[test]
fn attributes_without_match_or_with_unknown_owner_are_errors() {
    for (rule, problem) in [
        ("/etc/nothing/*: {mode: \"0640\"}", "nothing in the image matches `/etc/nothing/*`"),
        (
            "/etc/passwd: {owner: nobody2}",
            "the image has no user `nobody2` in /etc/passwd; a package or an earlier step must create it",
        ),
    ] {
        let root = root_with_shell();
        let yaml = format!("attributes:\n  {rule}\n");
        let error = provision(
            &mut Directory::new(root.path()),
            &[("provisioner.yml", &yaml)],
            &Options::default(),
            &mut (),
        )
        .unwrap_err();
        assert_eq!(error.error.to_string(), problem);
    }
}

#[test]
fn scripts_run_inside_with_the_variables() {
    let root = root_with_shell();
    let mut machine = Directory::new(root.path());
    let yaml = "variables: {name: it's, count: 3, on_boot: true, list: [1, \"a\\\"b\"], none: null}
scripts: [one.sh, two]
cleanup: {all: false}";
    let files = [
        ("one.sh", "env | sort >/etc/env; false; echo never >/etc/env"),
        ("two*", "#!/bin/sh\nfalse\necho two\nls / >/etc/listing\n"),
    ];
    let error = provision(&mut machine, &with_yaml(yaml, &files), &Options::default(), &mut ());
    // A script without `#!` line runs with `sh -e`.
    assert_eq!(error.unwrap_err().error.to_string(), "the script: exit code 1");
    let env = fs::read_to_string(root.path().join("etc/env")).unwrap();
    for line in [
        "OVERCOAT_VAR_name=it's",
        "OVERCOAT_VAR_count=3",
        "OVERCOAT_VAR_on_boot=true",
        "OVERCOAT_VAR_list=[1,\"a\\\"b\"]",
        "OVERCOAT_VAR_none=",
        "DEBIAN_FRONTEND=noninteractive",
    ] {
        assert!(env.lines().any(|l| l == line), "{line} in\n{env}");
    }
    let files = [("one.sh", ":"), files[1]];
    let mut recorder = Recorder::default();
    provision(&mut machine, &with_yaml(yaml, &files), &Options::default(), &mut recorder).unwrap();
    assert_eq!(recorder.output, b"two\n");
    assert!(fs::read_to_string(root.path().join("etc/listing")).unwrap().contains("usr"));
    assert_eq!(
        recorder.events,
        [
            "started script one.sh 1/2",
            "finished script one.sh",
            "started script two 2/2",
            "finished script two"
        ]
    );
}

#[test]
fn script_failure_has_name_last_lines_and_log_file() {
    let root = root_with_shell();
    let mut machine = Directory::new(root.path());
    let script = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo line $i; done; exit 3";
    let files = with_yaml("scripts: [a.sh]", &[("a.sh", script)]);
    let options = Options { log_file: Some("build/x.log".into()), ..Options::default() };
    let mut recorder = Recorder::default();
    let error = provision(&mut machine, &files, &options, &mut recorder).unwrap_err();
    let text = chain(&*error);
    assert!(
        text.contains("step \"script a.sh\" failed: the script: exit code 3\n  | line 11\n"),
        "{text}"
    );
    let end = "  | line 30\nthe whole log is in build/x.log";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(recorder.output.iter().filter(|b| **b == b'\n').count(), 30);
    assert_eq!(recorder.events.last().unwrap(), "failed script a.sh");
}

#[test]
fn signal_error_has_the_signal_name() {
    let root = root_with_shell();
    let files = with_yaml("scripts: [a.sh]", &[("a.sh", "kill -9 $$")]);
    let mut machine = Directory::new(root.path());
    let error = provision(&mut machine, &files, &Options::default(), &mut ()).unwrap_err();
    assert_eq!(error.error.to_string(), "the script: signal 9 (SIGKILL)");
}

/// An apt-get that logs its arguments, and fails for the package `broken`.
const APT: &str = r#"#!/bin/sh
for a; do case $a in -*) ;; *) line="$line $a";; esac; done
echo "$DEBIAN_FRONTEND$line" >>/apt.log
case "$line" in *broken*) echo "E: Unable to locate package broken"; exit 100;; esac
for a; do case $a in /*.deb) cat "$a" >>/apt.log;; esac; done
"#;

fn with_apt(root: &Path) {
    write_files(root, &[("usr/bin/apt-get*", APT), ("etc/apt/sources.list", "deb x y z\n")]);
}

#[test]
fn packages_are_installed_by_name_version_release_and_file() {
    let root = root_with_shell();
    with_apt(root.path());
    let yaml = "packages:
  - lshw
  - {name: ipmitool, version: \"1.8.19-4\"}
  - {name: lldpd, release: bookworm-backports}
  - ./debs/local.deb
cleanup: {all: false}";
    let files = with_yaml(yaml, &[("debs/local.deb", "the package\n")]);
    let mut machine = Directory::new(root.path());
    provision(&mut machine, &files, &Options::default(), &mut ()).unwrap();
    assert_eq!(
        fs::read_to_string(root.path().join("apt.log")).unwrap(),
        "noninteractive update\nnoninteractive install lshw ipmitool=1.8.19-4 \
         lldpd/bookworm-backports /run/overcoat/debs/local.deb\nthe package\n"
    );
}

#[test]
fn lists_are_fetched_again_only_after_sources_changed() {
    let root = root_with_shell();
    with_apt(root.path());
    let yaml = "steps:
  - packages: [one]
  - packages: [two]
  - files: files
  - packages: [three]
cleanup: {all: false}";
    let files = with_yaml(yaml, &[("files/etc/apt/sources.list.d/more.sources", "Types: deb\n")]);
    let mut machine = Directory::new(root.path());
    provision(&mut machine, &files, &Options::default(), &mut ()).unwrap();
    let log = fs::read_to_string(root.path().join("apt.log")).unwrap();
    let words: Vec<&str> = log.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, ["update", "one", "two", "update", "three"]);
}

#[test]
fn installation_failure_has_the_end_of_apt_output() {
    let root = root_with_shell();
    with_apt(root.path());
    let files = [("provisioner.yml", "packages: [broken]")];
    let mut machine = Directory::new(root.path());
    let error = provision(&mut machine, &files, &Options::default(), &mut ()).unwrap_err();
    let text = chain(&*error);
    assert!(
        text.contains("packages (1)\" failed: apt-get install: exit code 100\n  | E: Unable to locate package broken"),
        "{text}"
    );
}

#[test]
fn packages_step_without_apt_is_an_error() {
    let root = root_with_shell();
    let files = [("provisioner.yml", "packages: [lshw]")];
    let mut machine = Directory::new(root.path());
    let error = provision(&mut machine, &files, &Options::default(), &mut ()).unwrap_err();
    assert!(error.error.to_string().contains("no /usr/bin/apt-get"));
}

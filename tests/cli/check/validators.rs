//! `check --run`: programs of the image check its configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::programs::for_another_machine;
use crate::support::newc::{Archive, LINK};
use crate::support::processes::{alive, family, within};
use crate::support::stage::{EACH_PRIVILEGE, Finished, REPOSITORY, Stage, Who, finish};

/// A base with a shell, without any validator.
fn base() -> Archive {
    let mut base = Archive::new();
    base.program("bin/busybox", fs::read("/bin/busybox").unwrap());
    for name in ["sh", "cat", "grep", "sleep", "yes", "dd", "tr", "id"] {
        base.raw(&format!("bin/{name}"), LINK, "busybox");
    }
    base.file("etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    base.file("etc/group", "root:x:0:\n");
    base
}

/// A validator that reports each line of /etc/dnsmasq.conf with `BAD`.
const DNSMASQ: &str = "#!/bin/sh\n\
    grep -n BAD /etc/dnsmasq.conf | while IFS=: read -r line text; do\n\
    echo \"dnsmasq: $text at line $line of /etc/dnsmasq.conf\"; done\n\
    ! grep -q BAD /etc/dnsmasq.conf\n";

/// A stage with a base and an overlay.
struct Images {
    stage: Stage,
    base: PathBuf,
    overlay: PathBuf,
}

impl Images {
    fn new(base: &Archive, overlay: &Archive) -> Self {
        let stage = Stage::new();
        let base = stage.write("base.cpio", base.bytes());
        let overlay = stage.write("o.cpio.gz", overlay.gzip());
        Images { stage, base, overlay }
    }

    /// An overlay with this script as `dnsmasq`.
    fn with_dnsmasq(script: &str) -> Self {
        let mut overlay = Archive::new();
        overlay.program("usr/sbin/dnsmasq", format!("#!/bin/sh\n{script}\n"));
        overlay.file("etc/dnsmasq.conf", "one\ntwo\nthree\n");
        Images::new(&base(), &overlay)
    }

    fn command(&self, who: Who, arguments: &[&str]) -> std::process::Command {
        let mut command = self.stage.overcoat(who);
        command.arg("check").arg(&self.base).arg(&self.overlay);
        command.args(["--run", "--only", "run"]).args(arguments);
        command
    }

    fn check(&self, who: Who, arguments: &[&str]) -> Report {
        Report::new(finish(self.command(who, arguments).arg("--json")))
    }
}

/// The report of a check, as JSON.
struct Report {
    found: Vec<String>,
    not_run: Vec<String>,
    value: Value,
}

impl Report {
    fn new(finished: Finished) -> Self {
        assert!(finished.code < 2, "{}", finished.stderr);
        let value: Value = serde_json::from_slice(&finished.stdout).unwrap();
        let check = &value["checks"][0];
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let shown = |finding: &Value| {
            let (lint, path) = (text(finding, "lint"), text(finding, "path"));
            let line = finding["line"].as_u64().map(|line| format!(":{line}")).unwrap_or_default();
            let lint = lint.trim_start_matches("run/");
            format!("{lint} {path}{line}: {}", text(finding, "message"))
        };
        let found = check["findings"].as_array().unwrap().iter().map(shown).collect();
        let not_run = check["not_run"].as_array().unwrap();
        let not_run = not_run.iter().map(|n| format!("{} {}", n["lints"], n["reason"])).collect();
        Report { found, not_run, value }
    }

    #[track_caller]
    fn assert_no_findings(&self) {
        assert!(self.found.is_empty() && self.not_run.is_empty(), "{:#}", self.value);
    }

    /// Checks that there are no findings, and the reason why the lint did not run.
    #[track_caller]
    fn assert_not_run(&self, lint: &str, reason: &str) {
        assert_eq!(self.found, [""; 0]);
        let expected = |text: &&String| text.contains(lint) && text.contains(reason);
        assert!(self.not_run.len() == 1, "{:?}", self.not_run);
        assert!(self.not_run.iter().any(|text| expected(&text)), "{:?}", self.not_run);
    }
}

#[test]
fn image_without_validators_has_no_findings() {
    let mut overlay = Archive::new();
    overlay.file("etc/ssh/sshd_config", "Frob yes\n");
    overlay.file("etc/nginx/nginx.conf", "frob\n");
    let images = Images::new(&base(), &overlay);
    for who in EACH_PRIVILEGE {
        images.check(who, &[]).assert_no_findings();
    }
    // Nor has one without a shell.
    let empty = images.stage.write("empty.cpio", Archive::new().bytes());
    let mut check = images.stage.overcoat(Who::Root);
    check.arg("check").arg(&empty).arg(&images.overlay).args(["--run", "--only", "run", "--json"]);
    Report::new(finish(&mut check)).assert_no_findings();
}

#[test]
fn image_for_another_machine_is_reported_once() {
    let mut overlay = Archive::new();
    for (program, file) in [("dnsmasq", "dnsmasq.conf"), ("nginx", "nginx/nginx.conf")] {
        overlay.program(&format!("usr/sbin/{program}"), "");
        overlay.file(&format!("etc/{file}"), "");
    }
    let busybox = fs::read("/bin/busybox").unwrap();
    overlay.program("bin/busybox", for_another_machine(&busybox));
    let report = Images::new(&base(), &overlay).check(Who::Root, &[]);
    report.assert_not_run("run/nginx", "/bin/sh cannot be executed");
}

#[test]
fn programs_run_only_on_request() {
    let images = Images::with_dnsmasq("echo dnsmasq: BAD at line 2 of /etc/dnsmasq.conf; exit 1");
    let mut check = images.stage.overcoat(Who::Root);
    check.arg("check").arg(&images.base).arg(&images.overlay).arg("--json");
    let report = Report::new(finish(&mut check));
    assert!(!report.value.to_string().contains("run/"), "{:#}", report.value);
    for name in ["run", "run/dnsmasq"] {
        let mut check = images.stage.overcoat(Who::Root);
        check.arg("check").arg(&images.base).arg(&images.overlay).args(["--only", name]);
        finish(&mut check).code(2).stderr_has(&["add --run"]);
    }
    let found = ["dnsmasq /etc/dnsmasq.conf:2: BAD at line 2 of /etc/dnsmasq.conf"];
    assert_eq!(images.check(Who::Root, &[]).found, found);
    images.check(Who::Root, &["--skip", "run/dnsmasq"]).assert_no_findings();
    let sarif = finish(images.command(Who::Root, &[]).arg("--sarif")).code(1).text();
    assert!(sarif.contains("run/dnsmasq") && sarif.contains("\"line\": 2"), "{sarif}");
}

#[test]
fn findings_of_a_project_are_suppressed() {
    let images = Images::with_dnsmasq("echo dnsmasq: BAD at line 2 of /etc/dnsmasq.conf; exit 1");
    let skip = "check: {skip: [{lint: run/dnsmasq, reason: a test}]}";
    let project = format!("output: .\nimages:\n  o: {{base: ./base.cpio, {skip}}}\n");
    images.stage.write("overcoat.yml", project);
    let check = |arguments: &[&str]| {
        let mut check = images.stage.overcoat(Who::Root);
        check.current_dir(images.stage.path("")).args(["check", "o", "--json"]).args(arguments);
        let report = Report::new(finish(&mut check)).value;
        report["checks"][0].clone()
    };
    let report = check(&["--run", "--only", "run"]);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0, "{report:#}");
    assert_eq!(report["suppressed"].as_array().unwrap().len(), 1, "{report:#}");
    // Without --run the suppression is not reported as unused.
    assert_eq!(check(&[])["unused_suppressions"].as_array().unwrap().len(), 0);
}

#[test]
fn only_problems_that_the_overlay_causes_are_reported() {
    let mut base = base();
    base.program("usr/sbin/dnsmasq", DNSMASQ);
    base.file("etc/dnsmasq.conf", "BAD old\n");
    let mut overlay = Archive::new();
    overlay.file("etc/other", "");
    Images::new(&base, &overlay).check(Who::Root, &[]).assert_no_findings();
    // It is in another line now.
    overlay.file("etc/dnsmasq.conf", "good\nBAD old\nBAD new\n");
    let images = Images::new(&base, &overlay);
    let found = ["dnsmasq /etc/dnsmasq.conf:3: BAD new at line 3 of /etc/dnsmasq.conf"];
    assert_eq!(images.check(Who::Root, &[]).found, found);
    // Of the base itself, all are reported.
    let mut check = images.stage.overcoat(Who::Root);
    check.arg("check").arg(&images.base).args(["--run", "--only", "run", "--json"]);
    assert_eq!(Report::new(finish(&mut check)).found.len(), 1);
    // An overlay that breaks a file of the base.
    let mut overlay = Archive::new();
    overlay.program("usr/sbin/dnsmasq", DNSMASQ.replace("BAD", "old"));
    let report = Images::new(&base, &overlay).check(Who::Root, &[]);
    assert_eq!(report.found.len(), 0, "{:?}", report.found);
    overlay.program("usr/sbin/dnsmasq", "#!/bin/sh\necho 'dnsmasq: no service'; exit 1\n");
    let report = Images::new(&base, &overlay).check(Who::Root, &[]);
    assert_eq!(report.found, ["dnsmasq /etc/dnsmasq.conf: no service"]);
    let layer = report.value["checks"][0]["findings"][0]["layer"].as_str().unwrap().to_owned();
    assert!(layer.ends_with("o.cpio.gz"), "{layer}");
}

#[test]
fn programs_without_a_result_are_reported_as_not_run() {
    for (script, reason) in [
        ("kill -SEGV $$", "ended by signal 11"),
        ("exec /no/such/program", "could not be executed"),
        ("echo 'dnsmasq: could not resolve a.org'; exit 1", "needs the network"),
    ] {
        let images = Images::with_dnsmasq(script);
        images.check(Who::Root, &[]).assert_not_run("run/dnsmasq", reason);
    }
    // The lower layers have no result either.
    let mut base = base();
    base.program("usr/sbin/dnsmasq", "#!/bin/sh\nkill -SEGV $$\n");
    base.file("etc/dnsmasq.conf", "");
    let mut overlay = Archive::new();
    overlay.program("usr/sbin/dnsmasq", "#!/bin/sh\necho dnsmasq: x; exit 1\n");
    let report = Images::new(&base, &overlay).check(Who::Root, &[]);
    report.assert_not_run("run/dnsmasq", "in the lower layers, dnsmasq --test was ended");
}

/// A program that does not end, in its own session too.
const HANGING: &str = "busybox setsid sleep 1000 & trap '' TERM; sleep 1000";

#[test]
fn hanging_program_is_killed_and_the_others_have_results() {
    let mut overlay = Archive::new();
    overlay.program("usr/sbin/dnsmasq", format!("#!/bin/sh\n/bin/{HANGING}\n"));
    overlay.file("etc/dnsmasq.conf", "");
    overlay.program("usr/sbin/nginx", "#!/bin/sh\necho '[emerg] x'; exit 1\n");
    overlay.file("etc/nginx/nginx.conf", "");
    let images = Images::new(&base(), &overlay);
    for who in EACH_PRIVILEGE {
        let report = images.check(who, &["--run-limit", "1"]);
        assert_eq!(report.found, ["nginx /etc/nginx/nginx.conf: x"]);
        let reason = "[\"run/dnsmasq\"] \"dnsmasq --test did not end within 1 s\"";
        assert_eq!(report.not_run, [reason]);
    }
}

#[test]
fn ctrl_c_ends_the_program_and_leaves_nothing() {
    let images = Images::with_dnsmasq(&format!("/bin/{HANGING}"));
    for who in EACH_PRIVILEGE {
        let mut command = images.command(who, &["--run-limit", "600"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut processes = Vec::new();
        within(Duration::from_secs(60), "the program runs", || {
            processes = family(child.id());
            alive(&processes).iter().filter(|process| process.contains("(sleep")).count() == 2
        });
        let start = Instant::now();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        within(Duration::from_secs(20), "all have ended", || alive(&processes).is_empty());
    }
}

#[test]
fn hostile_programs_are_limited() {
    // Output without end.
    let images = Images::with_dnsmasq("yes 'dnsmasq: much at line 1 of /etc/dnsmasq.conf'");
    let report = images.check(Who::Root, &["--run-limit", "2"]);
    report.assert_not_run("run/dnsmasq", "did not end within 2 s");
    let images = Images::with_dnsmasq("busybox seq -f 'dnsmasq: %.0f' 1 300000; exit 1");
    let report = images.check(Who::Root, &[]);
    assert!((1..=1000).contains(&report.found.len()), "{}", report.found.len());
    // Control characters and invalid UTF-8.
    let images = Images::with_dnsmasq(
        "printf 'dnsmasq: \\033[31m\\377red\\007 at line 2 of /etc/dnsmasq.conf\\r\\n'; exit 1",
    );
    let found = images.check(Who::Root, &[]).found;
    assert!(found.len() == 1 && found[0].starts_with("dnsmasq /etc/dnsmasq.conf:2: "), "{found:?}");
    assert!(!found[0].chars().any(char::is_control), "{found:?}");
    // Files and memory. At each privilege /tmp is in memory.
    let fill = "for n in 1 2 3 4; do dd if=/dev/zero of=/tmp/$n bs=1M count=250 2>&1; done\n\
        dd if=/dev/zero of=/var-$$ bs=1M count=600 2>&1\n\
        echo dnsmasq: used $(busybox du -m -s /tmp | tr '\\t' ' '); exit 1";
    let images = Images::with_dnsmasq(fill);
    for who in EACH_PRIVILEGE {
        let found = images.check(who, &[]).found;
        let size = found[0].split_whitespace().nth(3).and_then(|size| size.parse::<u64>().ok());
        assert!(found.len() == 1 && size.is_some_and(|size| size <= 520), "{who:?} {found:?}");
    }
    let memory = "x=$(dd if=/dev/zero bs=1M count=3000 2>/dev/null | tr '\\0' x); echo dnsmasq: \
                  ${#x}; exit 1";
    let report = Images::with_dnsmasq(memory).check(Who::Root, &["--run-limit", "50"]);
    let held = report.found.iter().any(|found| found.contains("3145728000"));
    assert!(!held, "{:?}", report.found);
}

#[test]
fn programs_see_no_network_and_change_nothing() {
    let script = "echo changed >/etc/dnsmasq.conf; echo x >/etc/new\n\
        for name in $(grep -o '^ *[a-z0-9]*:' /proc/net/dev); do echo dnsmasq: $name; done\n\
        exit 1";
    let images = Images::with_dnsmasq(script);
    let overlay = fs::read(&images.overlay).unwrap();
    for who in EACH_PRIVILEGE {
        let found = images.check(who, &[]).found;
        assert_eq!(found, ["dnsmasq /etc/dnsmasq.conf: lo:"], "{who:?}");
    }
    assert_eq!(fs::read(&images.overlay).unwrap(), overlay);
    let left: Vec<PathBuf> = EACH_PRIVILEGE.map(|who| images.stage.files(who)).concat();
    assert_eq!(left, Vec::<PathBuf>::new());
}

#[test]
fn sandbox_that_cannot_start_is_reported() {
    let images = Images::with_dnsmasq("exit 0");
    let report = images.check(Who::Unprivileged, &["--privilege", "root"]);
    assert!(report.found.is_empty() && report.not_run.len() == 1, "{:#}", report.value);
    assert!(report.not_run[0].contains("run/sshd"), "{:?}", report.not_run);
}

/// Runs a script as root in a root of these layers, and saves its changes.
fn save(stage: &Stage, layers: &[&Path], name: &str, script: &str) -> PathBuf {
    let archive = stage.path(name);
    let mut run = stage.overcoat(Who::Root);
    run.arg("run").args(layers).args(["--network", "none", "--bind", &stage.bind_repository()]);
    run.arg("--save").arg(&archive).args(["--", "sh", "-euc", script]);
    finish(&mut run).ok();
    archive
}

const INSTALL: &str = "cp /etc/apt/sources.list /tmp/list\n\
    echo 'REPOSITORY' >/etc/apt/sources.list; apt-get update -qq\n\
    apt-get install -y -qq --no-install-recommends systemd-sysv openssh-server openssh-client \
    cron kmod udev grub-common >/dev/null\n\
    cp /tmp/list /etc/apt/sources.list; apt-get clean; rm -rf /var/lib/apt/lists/*";

const FAULTS: &str = r#"
    printf 'Foo bar\nPermitRootLogin maybe\n' >>/etc/ssh/sshd_config
    printf 'Frob yes\n' >>/etc/ssh/ssh_config
    printf '[Unit]\nFoo=1\n[Service]\nExecStart=/bin/true\n' >/etc/systemd/system/x.service
    printf '[Service]\nExecStart=/bin/true\n[Foo]\nx=1\n' >/etc/systemd/system/y@.service
    mkdir -p /etc/systemd/system/cron.service.d /etc/sysusers.d /boot/grub
    printf '[Service]\nExecStart=/bin/true\n' >/etc/systemd/system/cron.service.d/x.conf
    echo 'zz foo' >/etc/sysusers.d/x.conf
    printf 'd /q 0755 no no\nd relative\n' >/etc/tmpfiles.d/x.conf
    echo 'cut:x:1' >>/etc/passwd
    echo 'q:x:17:none' >>/etc/group
    sed -i '0,/^Status: install ok installed/s//Status: install ok half-configured/' \
        /var/lib/dpkg/status
    echo x >>/bin/ls; rm /usr/bin/env; echo >>/etc/profile
    echo 'deb foo' >/etc/apt/sources.list.d/x.list
    echo foo >>/etc/fstab
    echo 'frob x' >/etc/modprobe.d/x.conf
    mkdir -p /lib/modules/6.1.0-99/kernel; echo junk >/lib/modules/6.1.0-99/kernel/x.ko
    echo 'if foo' >/boot/grub/grub.cfg
    printf '#!/bin/bash\nif foo\n' >/usr/local/bin/b
    printf '#!/bin/bash\nshopt -s extglob\necho !(a)\n' >/usr/local/bin/good
    printf '#!/usr/bin/perl\nif foo {\n' >/usr/local/bin/p; chmod 755 /usr/local/bin/*
    echo 'if foo' >/etc/profile.d/p.sh; echo 'X="a' >/etc/default/frob
    printf '99 * * * * x\n' >/var/spool/cron/crontabs/root
"#;

/// What is found, in the order of the report.
const FOUND: [&str; 25] = [
    "sshd /etc/ssh/sshd_config:123: Bad configuration option: Foo",
    "sshd /etc/ssh/sshd_config:124: unsupported option \"maybe\".",
    "unit /usr/lib/systemd/system/cron.service: Service has more than one ExecStart=",
    "apt /etc/apt/sources.list.d/x.list:1: Malformed entry 1",
    "fstab /etc/fstab:2: parse error",
    "depmod /usr/lib/modules/6.1.0-99/kernel/x.ko: failed to load symbols",
    "grub /boot/grub/grub.cfg:",
    "shell /etc/default/frob:2: Syntax error",
    "shell /etc/profile.d/p.sh:2: syntax error",
    "shell /usr/local/bin/b:3: syntax error",
    "script /usr/local/bin/p:2: syntax error",
    "cron /var/spool/cron/crontabs/root:1: bad minute",
    "ssh /etc/ssh/ssh_config:54: Bad configuration option: frob",
    "unit /etc/systemd/system/x.service:2: Unknown key 'Foo'",
    "unit /etc/systemd/system/y@.service:3: Unknown section 'Foo'",
    "sysusers /etc/sysusers.d/x.conf:1: Unknown modifier",
    "tmpfiles /etc/tmpfiles.d/x.conf:1: Failed to resolve user 'no'",
    "tmpfiles /etc/tmpfiles.d/x.conf:2: Path 'relative' not absolute",
    "accounts /etc/group: group q: no user none",
    "accounts /etc/gshadow: no matching group file entry in /etc/gshadow: q",
    "accounts /etc/passwd: invalid password file entry: cut",
    "dpkg /var/lib/dpkg/status: adduser: it is only half configured",
    "package-files /usr/bin/ls: its content is not that of its package",
    "modprobe /etc/modprobe.d/x.conf:1: ignoring bad line starting with 'frob'",
    "package-files /usr/bin/env: the file of a package is missing",
];

#[test]
fn real_programs_find_faults_and_accept_packages() {
    let stage = Stage::new();
    let debian = stage.debian();
    let check = |who: Who, images: &[&Path]| {
        let mut check = stage.overcoat(who);
        check.arg("check").args(images).args(["--run", "--only", "run", "--json"]);
        Report::new(finish(&mut check))
    };
    check(Who::Root, &[&debian]).assert_no_findings();
    let script = INSTALL.replace("REPOSITORY", REPOSITORY.trim());
    let packages = save(&stage, &[&debian], "packages.tar", &script);
    let faults = save(&stage, &[&debian, &packages], "faults.tar", FAULTS);
    for who in EACH_PRIVILEGE {
        check(who, &[&debian, &packages]).assert_no_findings();
        let report = check(who, &[&debian, &packages, &faults]);
        assert!(report.not_run.is_empty(), "{:?}", report.not_run);
        let is_expected = report.found.len() == FOUND.len()
            && report.found.iter().zip(FOUND).all(|(found, start)| found.starts_with(start));
        assert!(is_expected, "{who:?}\nexpected {FOUND:#?}\nfound {:#?}", report.found);
    }
}

#[test]
fn missing_functions_are_found() {
    let stage = Stage::new();
    stage.sh("mkdir -p o/usr/local/bin o/usr/local/lib old
         echo 'int one(void) { return 1; }' >one.c
         echo 'int one(void) { return 1; } int two(void) { return 2; }' >two.c
         echo 'int two(void); void _start(void) { two(); }' >p.c
         echo 'int one(void); void _start(void) { one(); }' >q.c
         gcc -nostdlib -shared -fPIC -Wl,-soname,libdemo.so.1 -o libdemo.so two.c
         for p in p q; do
           gcc -nostdlib -fPIE -pie -Wl,-rpath,/usr/local/lib -o o/usr/local/bin/$p $p.c libdemo.so
         done
         gcc -nostdlib -shared -fPIC -Wl,-soname,libdemo.so.1 -o o/usr/local/lib/libdemo.so.1 one.c
         chmod -R a+rX o");
    let mut check = stage.overcoat(Who::Unprivileged);
    check.arg("check").arg(stage.debian()).arg(stage.path("o"));
    let report = Report::new(finish(check.args(["--run", "--only", "run", "--json"])));
    assert_eq!(report.found, ["symbols /usr/local/bin/p: undefined symbol: two"]);
}

#[test]
fn tests_of_a_provisioner_run_in_the_merged_root_and_change_nothing() {
    let mut overlay = Archive::new();
    overlay.file("etc/x", "one\n");
    let images = Images::new(&base(), &overlay);
    let stage = &images.stage;
    stage.write("tool/provisioner.yml", "variables: {word: one}\nfiles: files\n");
    stage.write("tool/files/etc/x", "one\n");
    let list = "- {file: /etc/x, contains: \"{{ word }}\"}\n- {file: /etc/x, contains: two}\n\
                - {port: 22}\n";
    stage.write("tool/tests/all.yml", list);
    stage.write("tool/tests/write.sh", "echo $OVERCOAT_VAR_word >/etc/made; cat /etc/made\n");
    stage.write("tool/tests/slow.sh", "exec sleep 60\n");
    let project = "output: .\nimages:\n  o: {base: ./base.cpio, provisioner: tool}\n";
    stage.write("overcoat.yml", project);
    for who in EACH_PRIVILEGE {
        let mut command = stage.overcoat(who);
        command.current_dir(stage.path("")).args(["check", "o", "--run", "--only", "run/test"]);
        let report = Report::new(finish(command.args(["--json", "--run-limit", "3"])));
        let expected = [
            "test : tool: file /etc/x (./tool/tests/all.yml:2): exit code 1: /etc/x does not \
             contain two",
            "test : tool: slow (./tool/tests/slow.sh): it did not end in time",
        ];
        assert_eq!(report.found, expected, "{:#}", report.value);
        assert!(report.not_run.is_empty(), "{:#}", report.value);
    }
}

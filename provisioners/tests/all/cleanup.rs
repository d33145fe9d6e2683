//! Clean-up of a root after a build.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::{Directory, write_files};
use provisioners::cleanup::CleanupSettings;
use provisioners::machine::{
    Attributes, Command, Entry, Exit, Log, Machine, MachineError, Meta, Node, Stat,
};
use provisioners::{Options, cleanup};

const EPOCH: i64 = 1_700_000_000;

/// A machine with a base: reverting a path restores the object of the base.
struct Layered {
    upper: Directory,
    base: PathBuf,
}

impl Machine for Layered {
    fn run(&mut self, command: &Command, log: &mut dyn Log) -> Result<Exit, MachineError> {
        self.upper.run(command, log)
    }
    fn scratch(
        &mut self,
        name: &Path,
        content: &mut dyn std::io::Read,
        mode: u32,
    ) -> Result<PathBuf, MachineError> {
        self.upper.scratch(name, content, mode)
    }
    fn stat(&self, path: &Path) -> Result<Option<Stat>, MachineError> {
        self.upper.stat(path)
    }
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError> {
        self.upper.read(path)
    }
    fn read_below(&self, path: &Path) -> Result<Option<Vec<u8>>, MachineError> {
        Ok(fs::read(self.base.join(path.strip_prefix("/").unwrap())).ok())
    }
    fn list(&self, dir: &Path) -> Result<Vec<Entry>, MachineError> {
        self.upper.list(dir)
    }
    fn put(&mut self, path: &Path, node: Node<'_>, meta: &Meta) -> Result<(), MachineError> {
        self.upper.put(path, node, meta)
    }
    fn set_attributes(&mut self, path: &Path, to: &Attributes) -> Result<(), MachineError> {
        self.upper.set_attributes(path, to)
    }
    fn remove(&mut self, path: &Path) -> Result<(), MachineError> {
        self.upper.remove(path)
    }
    fn revert(&mut self, path: &Path) -> Result<(), MachineError> {
        self.upper.remove(path)?;
        let inside = path.strip_prefix("/").unwrap();
        if self.base.join(inside).exists() {
            let status = std::process::Command::new("cp")
                .arg("-a")
                .args([self.base.join(inside), self.upper.root.join(inside)])
                .status();
            assert!(status.unwrap().success());
        }
        Ok(())
    }
}

fn clean(machine: &mut dyn Machine, names: &[&str]) {
    let options = Options { source_date_epoch: Some(EPOCH), ..Options::default() };
    for name in names {
        let step = cleanup::list().iter().find(|step| step.name == *name).expect(name);
        step.run(machine, &options).unwrap();
    }
}

fn on_by_default() -> Vec<&'static str> {
    CleanupSettings::default().enabled().map(|step| step.name).collect()
}

/// Returns all paths with their content: the text of a file, the target of a link, `/` for a
/// directory.
fn tree(root: &Path) -> BTreeMap<String, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let text = if meta.is_dir() {
                walk(root, &path, found);
                "/".to_owned()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                fs::read_to_string(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), text);
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// Writes the files that an installation leaves. `stamp` is the content where two builds differ.
fn installed(root: &Path, stamp: &str) {
    let day = 20_000 + i64::try_from(stamp.len()).unwrap();
    let shadow = format!("root:*:19000:0:99999:7:::\nlldpd:!:{day}::::::\n");
    write_files(
        root,
        &[
            ("etc/dropbear/dropbear_ed25519_host_key", stamp),
            ("etc/hostid", stamp),
            ("etc/iscsi/initiatorname.iscsi", stamp),
            ("etc/machine-id", stamp),
            ("etc/nvme/hostid", stamp),
            ("etc/nvme/hostnqn", stamp),
            ("etc/passwd-", stamp),
            ("etc/shadow", &shadow),
            ("etc/shadow-", stamp),
            ("etc/ssh/ssh_host_rsa_key", stamp),
            ("etc/ssh/ssh_host_rsa_key.pub", stamp),
            ("etc/ssh/sshd_config", "Port 22\n"),
            ("root/.bash_history", stamp),
            ("root/.bashrc", "alias x=y\n"),
            ("tmp/left", stamp),
            ("usr/share/doc/lshw/copyright", "c"),
            ("var/backups/dpkg.status.0", stamp),
            ("var/cache/apt/archives/lock", ""),
            ("var/cache/apt/archives/lshw.deb", stamp),
            ("var/cache/apt/archives/partial/x", stamp),
            ("var/cache/apt/srcpkgcache.bin", stamp),
            ("var/cache/debconf/templates.dat-old", stamp),
            ("var/cache/ldconfig/aux-cache", stamp),
            ("var/cache/man/de/index.db", stamp),
            ("var/lib/apt/extended_states", "Package: x\n"),
            ("var/lib/apt/lists/_repo_Packages", stamp),
            ("var/lib/apt/lists/auxfiles/x", stamp),
            ("var/lib/apt/lists/lock", ""),
            ("var/lib/dbus/machine-id", stamp),
            ("var/lib/dpkg/status", "Package: lshw\n"),
            ("var/lib/dpkg/status-old", stamp),
            ("var/lib/systemd/random-seed", stamp),
            ("var/log/alternatives.log", stamp),
            ("var/log/apt/history.log", stamp),
            ("var/log/btmp", ""),
            ("var/log/daemon/daemon.log", stamp),
            ("var/log/daemon/daemon.log.1", stamp),
            ("var/log/dpkg.log", stamp),
            ("var/log/journal/0123/system.journal", stamp),
        ],
    );
}

#[test]
fn default_clean_up_makes_builds_reproducible() {
    let clean_tree = |stamp: &str| {
        let dir = tempfile::tempdir().unwrap();
        installed(dir.path(), stamp);
        clean(&mut Directory::new(dir.path()), &on_by_default());
        tree(dir.path())
    };
    let tree = clean_tree("0123456789abcdef0123456789abcdef");
    assert_eq!(tree, clean_tree("other"));
    let files: Vec<&str> =
        tree.iter().filter(|(_, text)| *text != "/").map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        files,
        [
            "etc/iscsi/initiatorname.iscsi",
            "etc/machine-id",
            "etc/shadow",
            "etc/ssh/sshd_config",
            "root/.bashrc",
            "usr/share/doc/lshw/copyright",
            "var/cache/apt/archives/lock",
            "var/lib/apt/extended_states",
            "var/lib/apt/lists/lock",
            "var/lib/dpkg/status",
            "var/log/btmp",
            "var/log/daemon/daemon.log",
        ]
    );
    assert_eq!(tree["etc/shadow"], "root:*:19000:0:99999:7:::\nlldpd:!:19675::::::\n");
    assert_eq!(tree["etc/iscsi/initiatorname.iscsi"], "GenerateName=yes\n");
    assert_eq!((&*tree["etc/machine-id"], &*tree["var/log/daemon/daemon.log"]), ("", ""));
}

#[test]
fn clean_up_is_idempotent_and_accepts_an_empty_root() {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Directory::new(dir.path());
    let all: Vec<&str> = cleanup::list().iter().map(|step| step.name).collect();
    clean(&mut machine, &all);
    assert!(tree(dir.path()).is_empty());
    installed(dir.path(), "stamp");
    clean(&mut machine, &all);
    let once = tree(dir.path());
    clean(&mut machine, &all);
    assert_eq!(tree(dir.path()), once);
}

#[test]
fn files_of_the_base_are_kept() {
    let (base, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    installed(base.path(), "base");
    installed(dir.path(), "build");
    write_files(
        base.path(),
        &[("usr/share/man/man1/ls.1.gz", "m"), ("usr/share/doc/bash/README", "r")],
    );
    write_files(
        dir.path(),
        &[
            ("usr/share/man/man1/ls.1.gz", "m"),
            ("usr/share/man/man8/lshw.8.gz", "m"),
            ("usr/share/doc/bash/README", "r"),
            ("usr/share/doc/lshw/README", "r"),
        ],
    );
    let shadow = fs::read_to_string(base.path().join("etc/shadow")).unwrap();
    fs::write(dir.path().join("etc/shadow"), shadow + "new:!:20100::::::\n").unwrap();
    let mut machine = Layered { upper: Directory::new(dir.path()), base: base.path().to_owned() };
    let mut names = on_by_default();
    names.push("docs");
    clean(&mut machine, &names);
    let tree = tree(dir.path());
    assert_eq!(tree["var/log/dpkg.log"], "base");
    assert_eq!(tree["etc/machine-id"], "base");
    assert_eq!(tree["etc/ssh/ssh_host_rsa_key"], "base");
    assert_eq!(tree["etc/nvme/hostnqn"], "base");
    let shadow = "root:*:19000:0:99999:7:::\nlldpd:!:20004::::::\nnew:!:19675::::::\n";
    assert_eq!(tree["etc/shadow"], shadow);
    assert_eq!(tree["etc/iscsi/initiatorname.iscsi"], "base");
    assert_eq!(tree["usr/share/doc/bash/README"], "r");
    assert!(tree.contains_key("usr/share/man/man1/ls.1.gz"));
    assert!(!tree.contains_key("usr/share/man/man8/lshw.8.gz"));
    assert!(!tree.contains_key("usr/share/doc/lshw/README"));
}

#[test]
fn lists_of_packages_of_the_base_are_reverted_if_they_lack_only_directories() {
    let (base, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let info = |name: &str| format!("var/lib/dpkg/info/{name}");
    let whole = "/.\n/usr\n/usr/share/locale/de\n/usr/share/locale/de/x.mo\n/usr/bin/x\n/srv/x\n";
    for name in ["dir", "empty", "file", "upgraded", "longer"] {
        write_files(
            base.path(),
            &[
                (&info(&format!("{name}.list")), whole),
                (&info(&format!("{name}.md5sums")), "0  usr/bin/x\n"),
            ],
        );
        let digests = if name == "upgraded" { "1  usr/bin/x\n" } else { "0  usr/bin/x\n" };
        write_files(dir.path(), &[(&info(&format!("{name}.md5sums")), digests)]);
    }
    write_files(
        dir.path(),
        &[
            ("srv/x/kept", ""),
            ("var/lib/dpkg/status", "Package: new\n"),
            (&info("dir.list"), &whole.replace("/usr/share/locale/de\n", "")),
            (&info("empty.list"), &whole.replace("/srv/x\n", "")),
            // Another package replaces the file.
            (&info("file.list"), &whole.replace("/usr/bin/x\n", "")),
            (&info("upgraded.list"), &whole.replace("/usr/share/locale/de\n", "")),
            (&info("longer.list"), &format!("{whole}/usr/bin/y\n")),
            (&info("new.list"), "/.\n"),
        ],
    );
    let before = tree(dir.path());
    let mut machine = Layered { upper: Directory::new(dir.path()), base: base.path().to_owned() };
    clean(&mut machine, &["dpkg-lists"]);
    let after = tree(dir.path());
    for (name, is_reverted) in [
        ("dir", true),
        ("empty", true),
        ("file", false),
        ("upgraded", false),
        ("longer", false),
        ("new", false),
    ] {
        let path = info(&format!("{name}.list"));
        let wanted = if is_reverted { whole } else { &before[&path] };
        assert_eq!(after[&path], wanted, "{name}");
    }
}

#[test]
fn docs_and_locales_keep_files_that_others_need() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write_files(
        root,
        &[
            ("usr/share/doc/lshw/README.gz", ""),
            ("usr/share/doc/lshw/copyright", "c"),
            ("usr/share/doc/lshw/examples/x", ""),
            ("usr/share/info/dir", ""),
            ("usr/share/lintian/overrides/lshw", ""),
            ("usr/share/locale/de/LC_MESSAGES/lshw.mo", ""),
            ("usr/share/locale/en_GB/LC_MESSAGES/lshw.mo", ""),
            ("usr/share/locale/locale.alias", ""),
            ("usr/share/man/de/man8/lshw.8.gz", ""),
            ("usr/share/man/man8/lshw.8.gz", ""),
        ],
    );
    symlink("lshw", root.join("usr/share/doc/lshw-gtk")).unwrap();
    clean(&mut Directory::new(root), &["docs", "locales"]);
    let left: Vec<String> = tree(root).into_keys().collect();
    assert_eq!(
        left,
        [
            "usr",
            "usr/share",
            "usr/share/doc",
            "usr/share/doc/lshw",
            "usr/share/doc/lshw-gtk",
            "usr/share/doc/lshw/copyright",
            "usr/share/info",
            "usr/share/lintian",
            "usr/share/locale",
            "usr/share/locale/en_GB",
            "usr/share/locale/en_GB/LC_MESSAGES",
            "usr/share/locale/en_GB/LC_MESSAGES/lshw.mo",
            "usr/share/locale/locale.alias",
            "usr/share/man",
            "usr/share/man/man8",
        ]
    );
}

#[test]
fn snakeoil_certificate_is_removed_with_its_hash_link() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write_files(
        root,
        &[
            ("etc/ssl/certs/ssl-cert-snakeoil.pem", "snake"),
            ("etc/ssl/certs/real.pem", "real"),
            ("etc/ssl/private/ssl-cert-snakeoil.key", "key"),
        ],
    );
    symlink("ssl-cert-snakeoil.pem", root.join("etc/ssl/certs/0123abcd.0")).unwrap();
    symlink("real.pem", root.join("etc/ssl/certs/89abcdef.0")).unwrap();
    clean(&mut Directory::new(root), &["ssl-snakeoil"]);
    let left: Vec<String> =
        tree(root).into_iter().filter(|(_, text)| text != "/").map(|(path, _)| path).collect();
    assert_eq!(left, ["etc/ssl/certs/89abcdef.0", "etc/ssl/certs/real.pem"]);
}

#[test]
fn emptied_log_keeps_owner_and_mode() {
    let dir = tempfile::tempdir().unwrap();
    write_files(dir.path(), &[("var/log/app/app.log", "text")]);
    let path = dir.path().join("var/log/app/app.log");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let mut machine = Directory::new(dir.path());
    let owner = Attributes { uid: Some(104), gid: Some(4), mode: None };
    machine.set_attributes(Path::new("/var/log/app/app.log"), &owner).unwrap();
    clean(&mut machine, &["logs"]);
    let stat = machine.stat(Path::new("/var/log/app/app.log")).unwrap().unwrap();
    assert_eq!((stat.uid, stat.gid, stat.mode, stat.size), (104, 4, 0o640, 0));
}

#[test]
fn step_names_are_unique_and_can_be_switched() {
    let names: Vec<&str> = cleanup::list().iter().map(|step| step.name).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len());
    for step in cleanup::list() {
        assert!(step.description.len() < 90, "{}", step.name);
    }
    assert!(!on_by_default().contains(&"docs"));
    let mut settings = CleanupSettings::default();
    assert!(settings.set("docs", true) && settings.set("logs", false));
    assert!(!settings.set("nonsense", true));
    let on: Vec<&str> = settings.enabled().map(|step| step.name).collect();
    assert!(on.contains(&"docs") && !on.contains(&"logs"));
}

#[test]
fn documentation_lists_all_steps() {
    let text = include_str!("../../../docs/PROVISIONERS.md");
    let table: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.starts_with("<!-- cleanup"))
        .skip(3)
        .take_while(|line| !line.starts_with("<!--"))
        .collect();
    let steps: Vec<String> = cleanup::list()
        .iter()
        .map(|step| {
            let default = if step.default { "on" } else { "off" };
            format!("| `{}` | {default} | {} |", step.name, step.description)
        })
        .collect();
    assert_eq!(table, steps);
}

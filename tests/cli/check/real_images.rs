//! Real overlays on real bases, and on simulated newer bases.
//!
//! Newer bases are mounts of the lab's base with a change on top: a folder is a valid base.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{findings, names};
use crate::discovery;
use crate::support::newc::Archive;
use crate::support::stage::{BOTH_USERS, Finished, Stage, Who, finish};

/// The discovery overlay, which changes a configuration file of the base.
struct Pair {
    stage: Stage,
    overlay: PathBuf,
}

impl Pair {
    fn new() -> Self {
        let stage = Stage::new();
        stage.write("issue/provisioner.yml", "files: files\n");
        stage.write("issue/files/etc/issue", "ours\n");
        let image = discovery::image(&stage, &["issue"], "cleanup: {docs: true, locales: true}");
        let overlay = stage.out(Who::Root).join("discovery.cpio.gz");
        finish(&mut discovery::build(&stage, Who::Root, &image, &overlay)).ok();
        Pair { stage, overlay }
    }

    fn check(&self, arguments: &[&str]) -> Finished {
        finish(self.stage.overcoat(Who::Root).arg("check").args(arguments))
    }

    /// Returns the content of a file of the base.
    fn cat(&self, path: &str) -> Vec<u8> {
        let debian = self.stage.debian();
        finish(self.stage.overcoat(Who::Root).arg("cat").arg(debian).arg(format!(":{path}")))
            .ok()
            .stdout
    }

    /// Mounts the lab's base with `change` on top.
    fn newer(&self, name: &str, change: &Archive) -> PathBuf {
        let over = self.stage.write(format!("{name}.cpio"), change.bytes());
        let root = self.stage.path(name);
        std::fs::create_dir(&root).unwrap();
        let mut mount = self.stage.overcoat(Who::Root);
        finish(mount.arg("mount").arg(self.stage.debian()).arg(over).arg(&root)).ok();
        root
    }

    /// Returns the exit code and the findings on this base.
    fn over(&self, base: &Path) -> (i32, Vec<Value>) {
        let overlay = self.overlay.to_str().unwrap();
        let output = self.check(&["--base", base.to_str().unwrap(), overlay, "--json"]);
        let report = super::CheckOutput {
            code: output.code,
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: output.stderr,
        };
        let findings = findings(&report).into_iter();
        // Findings that also occur on its own base are tested elsewhere.
        let own = |finding: &Value| {
            ["lean/duplicate", "safe/setuid", "fit/conffile-shadowed"]
                .iter()
                .any(|lint| finding["lint"] == *lint)
        };
        (report.code, findings.filter(|finding| !own(finding)).collect())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in ["libc", "library", "conffile", "untouched"] {
            let root = self.stage.path(name);
            if root.exists() {
                // The mount does not exist if mounting failed.
                let _ = self.stage.overcoat(Who::Root).arg("umount").arg(root).output();
            }
        }
    }
}

fn text<'a>(finding: &'a Value, key: &str) -> &'a str {
    finding[key].as_str().unwrap()
}

#[test]
fn discovery_overlay_is_checked_on_its_own_and_newer_bases() {
    let pair = Pair::new();
    let status = String::from_utf8(pair.cat("/var/lib/dpkg/status")).unwrap();

    // On its own base there are no findings, with and without root.
    let debian = pair.stage.debian();
    let both: Vec<Vec<u8>> = BOTH_USERS
        .map(|who| {
            let mut check = pair.stage.overcoat(who);
            check.arg("check").arg(&debian).arg(&pair.overlay).args(["--deny", "warning"]);
            finish(&mut check).ok().stdout
        })
        .to_vec();
    assert_eq!(both[0], both[1]);

    // libc was upgraded.
    let mut change = Archive::default();
    let version = version_of(&status, "libc6");
    let paragraph = paragraph(&status, "libc6");
    let upgraded = paragraph.replace(&version, "2.36-9+deb12u99");
    assert_ne!(upgraded, paragraph);
    change.file("var/lib/dpkg/status", status.replace(&paragraph, &upgraded));
    let mut libc = pair.cat("/usr/lib/x86_64-linux-gnu/libc.so.6");
    libc.extend(b"newer");
    change.program("usr/lib/x86_64-linux-gnu/libc.so.6", libc);
    let (code, found) = pair.over(&pair.newer("libc", &change));
    assert_eq!(code, 1);
    let summary: Vec<_> = found.iter().map(|f| (text(f, "lint"), text(f, "path"))).collect();
    assert_eq!(summary, [("fit/package-database", "/var/lib/dpkg/status")], "{found:#?}");
    let message = format!(
        "libc6 has version {version} in the database but 2.36-9+deb12u99 in the lower layers"
    );
    assert_eq!(text(&found[0], "message"), message);

    // A library and its package were removed.
    let mut change = Archive::default();
    let list = String::from_utf8(pair.cat("/var/lib/dpkg/info/libssl3:amd64.list")).unwrap();
    for path in list.lines().filter(|path| *path != "/." && !list.contains(&format!("{path}/"))) {
        change.whiteout(&path[1..]);
    }
    let libssl = self::paragraph(&status, "libssl3");
    change.file("var/lib/dpkg/status", status.replace(&libssl, ""));
    for kind in ["list", "md5sums", "shlibs", "symbols", "triggers"] {
        change.whiteout(&format!("var/lib/dpkg/info/libssl3:amd64.{kind}"));
    }
    let root = pair.newer("library", &change);
    let (code, found) = pair.over(&root);
    assert_eq!(code, 1);
    let of = |lint: &str| -> BTreeSet<String> {
        let found = found.iter().filter(|finding| finding["lint"] == lint);
        found.map(|finding| text(finding, "path").to_owned()).collect()
    };
    assert_eq!(
        names(&found),
        ["fit/package-database".to_owned(), "works/elf-library".to_owned()].into(),
        "{found:#?}"
    );
    assert_eq!(of("fit/package-database").len(), 1);
    let broken = of("works/elf-library");
    assert!(broken.contains("/usr/bin/ipmitool"), "{broken:?}");
    pair.same_as_ldd(&root, &broken);

    // Configuration files of the base were changed: one that the overlay replaces, and one that it
    // does not.
    let mut change = Archive::default();
    change.file("etc/issue", "theirs, and newer\n");
    let (code, found) = pair.over(&pair.newer("conffile", &change));
    assert_eq!(code, 0);
    let summary: Vec<_> = found.iter().map(|f| (text(f, "lint"), text(f, "path"))).collect();
    assert_eq!(summary, [("fit/changed-beneath", "/etc/issue")], "{found:#?}");
    let mut change = Archive::default();
    change.file("etc/profile", "# newer\n");
    let (code, found) = pair.over(&pair.newer("untouched", &change));
    assert_eq!((code, found), (0, Vec::new()));
}

/// Returns the paragraph of a package.
fn paragraph(status: &str, package: &str) -> String {
    let begin = format!("Package: {package}\n");
    let paragraph = status.split_inclusive("\n\n").find(|text| text.starts_with(&begin));
    paragraph.unwrap().to_owned()
}

fn version_of(status: &str, package: &str) -> String {
    let paragraph = paragraph(status, package);
    let line = paragraph.lines().find_map(|line| line.strip_prefix("Version: "));
    line.unwrap().to_owned()
}

impl Pair {
    /// Checks that ldd, run in the root, misses libraries of exactly the reported programs and of
    /// those that load one of them.
    fn same_as_ldd(&self, base: &Path, found: &BTreeSet<String>) {
        let own = self.own_paths();
        let programs = own.iter().filter(|path| path.contains("bin/") || path.contains(".so"));
        let programs = programs.map(String::as_str).collect::<Vec<_>>().join(" ");
        let script =
            format!("for file in {programs}; do echo $file; ldd $file 2>/dev/null || true; done");
        let mut run = self.stage.overcoat(Who::Root);
        run.arg("run").arg(base).arg(&self.overlay).args(["--", "sh", "-c", &script]);
        let output = String::from_utf8(finish(&mut run).ok().stdout).unwrap();
        let mut file = "";
        let (mut missing, mut loads): (BTreeSet<&str>, BTreeSet<(&str, &str)>) = Default::default();
        for line in output.lines() {
            if line.starts_with('/') {
                file = line;
            } else if line.contains("not found") {
                missing.insert(file);
            } else if let Some((_, path)) = line.split_once(" => ") {
                loads.insert((file, path.split(' ').next().unwrap()));
            }
        }
        let broken = |file: &str| {
            // Findings have the real name of a library, ldd prints that of a link.
            let is_found = |path: &str| found.iter().any(|other| other.starts_with(&real(path)));
            let mut loaded = loads.iter().filter(|(by, _)| *by == file);
            is_found(file) || loaded.any(|(_, path)| is_found(path))
        };
        for file in &missing {
            assert!(broken(file), "ldd misses a library of {file}, which is not reported");
        }
        for file in found {
            assert!(missing.contains(file.as_str()), "{file} is reported, but ldd misses nothing");
        }
    }

    /// Returns the paths of the overlay.
    fn own_paths(&self) -> BTreeSet<String> {
        let script = format!("gzip -dc {} | cpio -it --quiet", self.overlay.display());
        self.stage.sh(&script).lines().map(|path| format!("/{path}")).collect()
    }
}

/// Returns a path in a root with merged /usr.
fn real(path: &str) -> String {
    match path.starts_with("/lib") {
        true => format!("/usr{path}"),
        false => path.to_owned(),
    }
}

//! `check`: a fixture for each lint that is found, and nothing else with it; an overlay in which
//! nothing is; real pairs of overlay and base.

mod archive;
mod boots;
mod cases;
mod command;
mod documents;
mod fits;
mod hostile;
mod libraries;
mod pairs;
mod programs;
mod safe;
mod units;
mod ways;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use archive::{Archive, LINK};
use programs::programs;

/// A folder with a base and an overlay.
struct Pair {
    folder: tempfile::TempDir,
}

/// How the program ended, and what it printed.
struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Pair {
    fn new(base: &Archive, overlay: &[u8]) -> Self {
        let pair = Pair { folder: tempfile::tempdir().unwrap() };
        fs::write(pair.path("base.cpio"), base.bytes()).unwrap();
        fs::write(pair.path("o.cpio.gz"), overlay).unwrap();
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `overcoat check` in the folder.
    fn check(&self, arguments: &[&str]) -> Said {
        run(self.folder.path(), arguments)
    }

    /// What is found in the overlay.
    fn findings(&self, more: &[&str]) -> Vec<Value> {
        let said = self.check(&[&["base.cpio", "o.cpio.gz", "--json"], more].concat());
        assert!(said.code < 2, "{}", said.stderr);
        findings(&said)
    }

    /// A manifest beside the overlay that says what was beneath it when it was made.
    fn manifest(&self, entries: &Value) {
        let overlay = fs::read(self.path("o.cpio.gz")).unwrap();
        let base = fs::read(self.path("base.cpio")).unwrap();
        let manifest = json!({
            "schema": 1,
            "archive": { "format": "cpio.gz", "size": overlay.len(), "sha256": sha256(&overlay) },
            "layers": [{ "name": "base.cpio", "sha256": sha256(&base) }],
            "entries": entries,
        });
        fs::write(self.path("o.cpio.gz.manifest.json"), manifest.to_string()).unwrap();
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overcoat"));
    command.arg("check").args(arguments).current_dir(folder).env("NO_COLOR", "1");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    Said { code: output.status.code().unwrap(), stdout, stderr }
}

/// The findings of all that was judged.
fn findings(said: &Said) -> Vec<Value> {
    let report: Value = serde_json::from_str(&said.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", said.stdout, said.stderr));
    assert_eq!(report["schema"], 1);
    let checks = report["checks"].as_array().unwrap();
    checks.iter().flat_map(|check| check["findings"].as_array().unwrap()).cloned().collect()
}

fn names(findings: &[Value]) -> BTreeSet<String> {
    findings.iter().map(|finding| finding["lint"].as_str().unwrap().to_owned()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A root of a machine, small.
fn base() -> Archive {
    let made = programs();
    let mut base = Archive::new();
    for (name, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        base.raw(name, LINK, target);
    }
    base.program("usr/bin/sh", &made.program);
    base.program("usr/bin/demo", &made.program);
    base.program("usr/bin/env", &made.program);
    base.program("usr/sbin/init", &made.program);
    base.program("usr/lib64/ld-demo.so.2", &made.loader);
    base.file("usr/lib/libdemo.so.1.0", &made.library);
    base.link("usr/lib/libdemo.so.1", "libdemo.so.1.0");
    base.file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n");
    base.file("etc/ld.so.conf.d/opt.conf", "/opt/lib\n");
    base.file("etc/ld.so.cache", empty_cache());
    base.file("etc/passwd", PASSWD);
    base.file("etc/group", "root:x:0:\nshadow:x:42:\ngames:x:60:\n");
    base.put("etc/shadow", 0o100640, "root:*:19000::::::\ngames:*:19000::::::\n").gid = 42;
    base.file("etc/demo.conf", "demo = 1\n");
    base.file("etc/plain.conf", "plain = 1\n");
    base.file("usr/share/things/one", "1");
    base.file("usr/share/obsolete", "o");
    base.put("var/odd", 0o040777, "");
    base.program("usr/lib/systemd/systemd", &made.program);
    base.file("usr/lib/systemd/system/multi-user.target", "[Unit]\nDescription=Many\n");
    base.file("usr/lib/systemd/system/demo.service", "[Service]\nExecStart=/usr/bin/demo\n");
    let wants = "etc/systemd/system/multi-user.target.wants/demo.service";
    base.link(wants, "/lib/systemd/system/demo.service");
    base.file("usr/lib/modules/6.1.0-1/modules.dep", "kernel/one.ko:\n");
    base.file("usr/lib/modules/6.1.0-1/kernel/one.ko", &made.module);
    base.file("var/lib/dpkg/status", STATUS);
    base.file("var/lib/dpkg/info/demo.list", "/.\n/usr/bin/demo\n/etc/demo.conf\n");
    base.file("var/lib/dpkg/info/tool.list", "/.\n/usr/bin/env\n");
    base
}

const PASSWD: &str = "root:x:0:0::/root:/bin/sh\ngames:x:5:60::/usr/games:/usr/sbin/nologin\n";
const STATUS: &str = "Package: demo\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n\
    Conffiles:\n /etc/demo.conf 0123456789abcdef0123456789abcdef\n\n\
    Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.0\n";

/// A linker's cache in which nothing is.
fn empty_cache() -> Vec<u8> {
    let mut cache = b"glibc-ld.so.cache1.1".to_vec();
    cache.resize(48, 0);
    cache
}

/// An overlay as a provisioner would make it.
fn clean() -> Archive {
    let made = programs();
    let mut overlay = Archive::new();
    overlay.file("etc/passwd", format!("{PASSWD}tool:x:990:990::/:/usr/sbin/nologin\n"));
    overlay.file("etc/group", "root:x:0:\nshadow:x:42:\ngames:x:60:\ntool:x:990:\n");
    overlay.program("usr/local/bin/tool", "#!/bin/sh\nexec demo\n");
    overlay.program("usr/local/bin/other", "#!/usr/bin/env demo\n");
    overlay.program("usr/bin/demo-tool", &made.program);
    overlay.program("opt/tool/bin/private", &made.private_program);
    overlay.file("opt/tool/lib/private/libprivate.so.1", &made.other_library);
    overlay.put("var/lib/tool", 0o040750, "").uid = 990;
    overlay.put("var/spool/all", 0o041777, "");
    // What is in a directory brings it along, as it is.
    overlay.put("var/odd", 0o040777, "");
    overlay.file("var/odd/one", "1");
    overlay.gone("usr/share/obsolete");
    overlay.link("usr/bin/tool", "../local/bin/tool");
    overlay.link("etc/tool-log", "/run/tool/log");
    overlay.file(
        "etc/systemd/system/tool.service",
        "[Unit]\nDescription=Tool\nAfter=demo.service none.service\nWants=none.service\n\
         [Service]\nUser=tool\nExecStartPre=-/bin/none\nExecStart=/usr/local/bin/tool --a \\\n --b\n\
         [Install]\nWantedBy=multi-user.target\n",
    );
    let wants = "etc/systemd/system/multi-user.target.wants/tool.service";
    overlay.link(wants, "/etc/systemd/system/tool.service");
    overlay.file("usr/share/doc/tool/copyright", "free\n");
    overlay.file("etc/machine-id", "");
    overlay.file("etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    overlay
}

#[test]
fn in_an_overlay_that_is_as_it_should_be_nothing_is_found() {
    let pair = Pair::new(&base(), &clean().gzip());
    pair.manifest(&json!([]));
    let said = pair.check(&["base.cpio", "o.cpio.gz"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{}", said.stderr);
    assert_eq!(said.stderr, "overcoat: o.cpio.gz: no findings\n");
    assert_eq!(pair.findings(&[]), [] as [Value; 0]);
    // Whichever way it is compressed.
    for (name, bytes) in [
        ("plain.cpio", clean().bytes()),
        ("o.cpio.zst", zstd::encode_all(&clean().bytes()[..], 3).unwrap()),
    ] {
        fs::write(pair.path(name), bytes).unwrap();
        let said = pair.check(&["base.cpio", name]);
        assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{}", said.stderr);
    }
}

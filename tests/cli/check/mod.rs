//! Tests of `check`: a fixture for each lint, an overlay without findings, and real overlays on
//! real bases.

mod base;
mod boots;
mod command;
mod config;
mod documents;
mod hostile;
mod libraries;
mod lint_cases;
mod programs;
mod real_images;
mod runtime;
mod security;
mod units;
mod validators;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::snapshot::{self, Transcript, program};
use crate::support::newc::{Archive, LINK};
use programs::programs;

/// A folder with a base and an overlay.
struct Pair {
    folder: tempfile::TempDir,
}

/// Exit code and output of `overcoat check`.
struct CheckOutput {
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
    fn check(&self, arguments: &[&str]) -> CheckOutput {
        run(self.folder.path(), arguments)
    }

    /// Compares the outputs of these command lines in the folder with a snapshot.
    fn snapshot(&self, name: &str, lines: &[&str]) {
        let mut transcript = Transcript::new(self.folder.path());
        for line in lines {
            transcript.run(program(), line);
        }
        let _settings = snapshot::bind("");
        insta::assert_snapshot!(name, transcript.text());
    }

    /// Returns the findings of the overlay.
    fn findings(&self, more: &[&str]) -> Vec<Value> {
        let output = self.check(&[&["base.cpio", "o.cpio.gz", "--json"], more].concat());
        assert!(output.code < 2, "{}", output.stderr);
        findings(&output)
    }

    /// Writes a manifest of the overlay with these entries.
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

fn run(folder: &Path, arguments: &[&str]) -> CheckOutput {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overcoat"));
    command.arg("check").args(arguments).current_dir(folder).env("NO_COLOR", "1");
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(!stderr.contains("panicked"), "{stderr}");
    CheckOutput { code: output.status.code().unwrap(), stdout, stderr }
}

/// Returns the findings of all checked images.
fn findings(output: &CheckOutput) -> Vec<Value> {
    let report: Value = serde_json::from_str(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", output.stdout, output.stderr));
    assert_eq!(report["schema"], 2);
    let checks = report["checks"].as_array().unwrap();
    checks.iter().flat_map(|check| check["findings"].as_array().unwrap()).cloned().collect()
}

fn names(findings: &[Value]) -> BTreeSet<String> {
    findings.iter().map(|finding| finding["lint"].as_str().unwrap().to_owned()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small root of a machine.
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
    base.put("etc/shadow", 0o100640, SHADOW).gid = 42;
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

const PASSWD: &str = "root:x:0:0::/root:/usr/bin/sh\ngames:x:5:60::/usr/games:/usr/sbin/nologin\n";
const SHADOW: &str = "root:*:19000::::::\ngames:*:19000::::::\n";
const STATUS: &str = "Package: demo\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n\
    Conffiles:\n /etc/demo.conf 0123456789abcdef0123456789abcdef\n\n\
    Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.0\n";

/// An empty linker's cache.
fn empty_cache() -> Vec<u8> {
    let mut cache = b"glibc-ld.so.cache1.1".to_vec();
    cache.resize(48, 0);
    cache
}

/// An overlay as a provisioner would build it, without findings.
fn clean() -> Archive {
    let made = programs();
    let mut overlay = Archive::new();
    overlay.file("etc/passwd", format!("{PASSWD}tool:x:990:990::/:/usr/sbin/nologin\n"));
    overlay.file("etc/group", "root:x:0:\nshadow:x:42:\ngames:x:60:\ntool:x:990:\n");
    let shadow = format!("{SHADOW}tool:!*:19000::::::\n");
    overlay.put("etc/shadow", 0o100640, shadow).gid = 42;
    overlay.program("usr/local/bin/tool", "#!/bin/sh\nexec demo\n");
    overlay.program("usr/local/bin/other", "#!/usr/bin/env demo\n");
    overlay.program("usr/bin/demo-tool", &made.program);
    overlay.program("opt/tool/bin/private", &made.private_program);
    overlay.file("opt/tool/lib/private/libprivate.so.1", &made.other_library);
    overlay.put("var/lib/tool", 0o040750, "").uid = 990;
    overlay.put("var/spool/all", 0o041777, "");
    // The unchanged parent of a new file.
    overlay.put("var/odd", 0o040777, "");
    overlay.file("var/odd/one", "1");
    overlay.whiteout("usr/share/obsolete");
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
fn clean_overlay_has_no_findings() {
    let pair = Pair::new(&base(), &clean().gzip());
    pair.manifest(&json!([]));
    let output = pair.check(&["base.cpio", "o.cpio.gz"]);
    assert_eq!((output.code, output.stdout.as_str()), (0, ""), "{}", output.stderr);
    assert_eq!(output.stderr, "overcoat: o.cpio.gz: no findings\n");
    assert_eq!(pair.findings(&[]), [] as [Value; 0]);
    // With each compression.
    for (name, bytes) in [
        ("plain.cpio", clean().bytes()),
        ("o.cpio.zst", zstd::encode_all(&clean().bytes()[..], 3).unwrap()),
    ] {
        fs::write(pair.path(name), bytes).unwrap();
        let output = pair.check(&["base.cpio", name]);
        assert_eq!((output.code, output.stdout.as_str()), (0, ""), "{}", output.stderr);
    }
}

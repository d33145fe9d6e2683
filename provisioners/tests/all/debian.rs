//! Builds the discovery example on a Debian base with packages of Debian.
//!
//! Needs root and the lab of `tests/set-up.sh`: `base.tar` and a package repository `repo` in
//! `$OVERCOAT_LAB` (by default `build/lab`). Without them the tests print a message and pass.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use crate::common::{self, Directory, chain};
use provisioners::machine::{Command, Machine};
use provisioners::{Image, Observer, Options, StepInfo};

fn lab() -> Option<PathBuf> {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/lab");
    let lab = std::env::var_os("OVERCOAT_LAB").map_or_else(ours, PathBuf::from);
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if root && lab.join("base.tar").exists() && lab.join("repo/Packages").exists() {
        return Some(lab);
    }
    eprintln!("skipped: needs root, and base.tar and repo in {}", lab.display());
    None
}

/// Returns a base with the lab's repository as its only source. The clean-up empties `/tmp`.
fn base(lab: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let run = |process: &mut Process| assert!(process.status().unwrap().success(), "{process:?}");
    run(Process::new("tar").arg("xf").arg(lab.join("base.tar")).arg("-C").arg(dir.path()));
    run(Process::new("cp").arg("-r").arg(lab.join("repo")).arg(dir.path().join("tmp/repo")));
    fs::write(dir.path().join("etc/apt/sources.list"), "deb [trusted=yes] file:/tmp/repo ./\n")
        .unwrap();
    let policy = [("usr/sbin/policy-rc.d*", "#!/bin/sh\nexit 101\n")];
    common::write_files(dir.path(), &policy);
    dir
}

#[derive(Default)]
struct Timings(Vec<String>, Vec<u8>);

impl Observer for Timings {
    fn finished(&mut self, step: &StepInfo, took: Duration) {
        self.0.push(format!("{:6.2} s  {step}", took.as_secs_f64()));
    }
    fn output(&mut self, bytes: &[u8]) {
        self.1.extend_from_slice(bytes);
    }
}

fn example() -> Image {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/discovery/discovery.yml");
    Image::load(&file).unwrap_or_else(|e| panic!("{}", chain(&e)))
}

fn build(lab: &Path) -> tempfile::TempDir {
    let dir = base(lab);
    let mut machine = Directory::new(dir.path());
    let options = Options { source_date_epoch: Some(1_700_000_000), ..Options::default() };
    let mut timings = Timings::default();
    let plan = example().plan().unwrap_or_else(|e| panic!("{}", chain(&e)));
    if let Err(error) = plan.run(&mut machine, &options, &mut timings) {
        panic!("{}", chain(&*error));
    }
    eprintln!("{}", timings.0.join("\n"));
    machine.remove(Path::new("/run/overcoat")).unwrap();
    dir
}

/// Returns all paths with mode, owner and content.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, u32, u32, Vec<u8>)> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, (u32, u32, u32, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                walk(root, &path, found);
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if meta.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let name = path.strip_prefix(root).unwrap().to_owned();
            found.insert(name, (meta.mode(), meta.uid(), meta.gid(), content));
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

#[test]
fn discovery_example_is_reproducible() {
    let Some(lab) = lab() else { return };
    let (one, two) = (build(&lab), build(&lab));
    let (a, b) = (tree(one.path()), tree(two.path()));
    let different: Vec<_> =
        a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).collect();
    assert!(different.is_empty(), "{different:?}");

    let of = |path: &str| a.get(Path::new(path)).unwrap_or_else(|| panic!("no {path}"));
    assert_eq!(of("etc/discovery/discovery.conf").0 & 0o7777, 0o640);
    assert_eq!(of("etc/discovery/discovery.conf").2, 4);
    assert_eq!(of("usr/local/sbin/discover").0 & 0o7777, 0o755);
    let lldp = String::from_utf8(of("etc/lldpd.d/overcoat.conf").3.clone()).unwrap();
    assert!(lldp.contains("tx-interval 10\n") && lldp.contains("pattern en*,eth*\n"), "{lldp}");
    for gone in ["var/log/dpkg.log", "usr/share/man/man8/lshw.1.gz", "etc/passwd-"] {
        assert!(!a.contains_key(Path::new(gone)), "{gone}");
    }
    for stays in ["var/lib/dpkg/status", "usr/share/doc/lshw/copyright", "var/log/btmp"] {
        of(stays);
    }
    posts_facts(one.path());
}

/// Checks that `discover` posts JSON to the URL of the kernel command line.
fn posts_facts(root: &Path) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let n = stream.read(&mut buffer).unwrap();
            request.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&request);
            if n == 0 || text.ends_with("}\n") {
                break;
            }
        }
        stream.write_all(b"HTTP/1.0 204 No Content\r\n\r\n").unwrap();
        String::from_utf8(request).unwrap()
    });
    let cmdline =
        format!("quiet BOOTIF=01-52-54-00 discovery_url=http://127.0.0.1:{port}/facts?x=1");
    fs::write(root.join("tmp/cmdline"), cmdline).unwrap();
    let mut log: Vec<u8> = Vec::new();
    let command = Command::new("/usr/local/sbin/discover").env("CMDLINE", "/tmp/cmdline");
    let exit = Directory::new(root).run(&command, &mut log).unwrap();
    assert!(exit.success(), "{}", String::from_utf8_lossy(&log));
    let request = server.join().unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /facts?x=1 HTTP/1.0\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    let facts: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(facts["bootif"], "01-52-54-00");
    assert!(facts["memory"].as_u64().unwrap() > 1 << 20);
    assert!(facts["lshw"].is_object() || facts["lshw"].is_array(), "{}", facts["lshw"]);
}

#[test]
fn unknown_package_error_has_output_of_apt() {
    let Some(lab) = lab() else { return };
    let root = base(&lab);
    let dir = tempfile::tempdir().unwrap();
    common::write_files(dir.path(), &[("provisioner.yml", "packages: [lshw, no-such-tool]\n")]);
    let provisioner = provisioners::Provisioner::load(dir.path()).unwrap();
    let plan = provisioners::Plan::new(&[provisioner]).unwrap();
    let mut machine = Directory::new(root.path());
    let error = plan.run(&mut machine, &Options::default(), &mut ()).unwrap_err();
    let text = chain(&*error);
    assert!(text.contains("| E: Unable to locate package no-such-tool"), "{text}");
    assert!(text.contains("failed: apt-get install: exit code 100\n"), "{text}");
}

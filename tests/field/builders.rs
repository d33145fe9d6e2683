//! The same build on hosts that differ: packages whose maintainer scripts read the host name, name
//! servers, certificates and proxies, installed on each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::lab;
use crate::support::stage::{EPOCH, Stage, Who, bind, finish};

/// A host that builds.
struct Host {
    name: &'static str,
    resolv: &'static str,
    zone: &'static str,
    locale: &'static str,
    proxy: Option<&'static str>,
}

const PLAIN: Host = Host {
    name: "plain",
    resolv: "nameserver 192.0.2.11\n",
    zone: "UTC",
    locale: "C.UTF-8",
    proxy: None,
};

const OTHER: Host = Host {
    name: "zephyr7.builder-site.example",
    resolv: "domain builder-site.example\nsearch builder-site.example lab-site.example\n\
             nameserver 198.51.100.53\nnameserver 2001:db8::53\noptions edns0\n",
    zone: "Asia/Tokyo",
    locale: "de_DE.UTF-8",
    proxy: Some("http://proxy-of-builder.example:3142"),
};

/// Texts that only the second host has.
const TRACES: [&str; 8] = [
    "zephyr7",
    "builder-site",
    "lab-site",
    "198.51.100.53",
    "2001:db8::53",
    "proxy-of-builder",
    "CERTIFICATEOFTHEBUILDER",
    "Asia/Tokyo",
];

/// What an overlay has at each path: type, mode, owner, and the digest of a file.
type Entries = BTreeMap<String, String>;

/// Builds on `host` an overlay that has the packages of `group`, and unpacks it.
fn build(group: &str, host: &Host, round: &str) -> (Entries, Vec<(String, PathBuf)>, Stage) {
    let stage = Stage::new();
    bind(&stage.write("host/resolv.conf", host.resolv), Path::new("/etc/resolv.conf"));
    bind(&stage.write("host/hostname", format!("{}\n", host.name)), Path::new("/etc/hostname"));
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {}\n", host.name);
    bind(&stage.write("host/hosts", hosts), Path::new("/etc/hosts"));
    let own = "-----BEGIN CERTIFICATE-----\nCERTIFICATEOFTHEBUILDER\n-----END CERTIFICATE-----\n";
    let own = stage.write("own.pem", own);

    stage.write("pack/provisioner.yml", format!("packages: [{}]\n", group.replace(' ', ", ")));
    stage.write(
        "sources/0.sh",
        "#!/bin/sh -eu\necho 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list\n\
         rm -f /etc/apt/sources.list.d/*\n",
    );
    stage.write("sources/provisioner.yml", "scripts: [0.sh]\n");
    let mut text = format!("base: {}\nprovisioner: [sources, pack]\n", stage.debian().display());
    if let Some(proxy) = host.proxy {
        text.push_str(&format!("apt_proxy: {proxy}\n"));
    }
    let image = stage.write("image.yml", text);

    let who = Who::Unprivileged;
    let overlay = stage.out(who).join("overlay.cpio.gz");
    let program = stage.overcoat(who);
    let mut command = Command::new("unshare");
    command.args(["--uts", "sh", "-c", "hostname \"$0\"; exec \"$@\"", host.name]);
    command.arg(program.get_program()).args(program.get_args());
    command.current_dir(program.get_current_dir().unwrap());
    for (variable, value) in program.get_envs() {
        if let Some(value) = value {
            command.env(variable, value);
        }
    }
    let repository = stage.lab().join("field/repo");
    command.arg("build").arg(image).arg("-o").arg(&overlay);
    command.arg("--bind").arg(format!("{}:/repo:ro", repository.display()));
    command.env("SOURCE_DATE_EPOCH", EPOCH).env("SSL_CERT_FILE", own);
    command.env("TZ", host.zone).env("LANG", host.locale).env("LC_ALL", host.locale);
    command.env("USER", host.name).env("LOGNAME", host.name);
    if let Some(proxy) = host.proxy {
        command.env("http_proxy", proxy).env("https_proxy", proxy);
    }
    let finished = finish(&mut command).ok();
    for line in finished.stderr.lines().filter(|line| line.contains("warning")) {
        println!("{round} {}: {line}", host.name);
    }

    let folder = stage.path("unpacked");
    fs::create_dir(&folder).unwrap();
    stage.sh(&format!(
        "cd '{}' && gzip -dc '{}' | cpio -idm --quiet --no-absolute-filenames",
        folder.display(),
        overlay.display()
    ));
    let listed = stage.sh(&format!(
        "cd '{}' && find . -mindepth 1 -printf '%P\\t%y %m %U:%G %l\\n'",
        folder.display()
    ));
    let sums =
        stage.sh(&format!("cd '{}' && find . -type f -exec sha256sum {{}} +", folder.display()));
    let mut entries: Entries = listed
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(path, rest)| (path.to_owned(), rest.to_owned()))
        .collect();
    let mut files = Vec::new();
    for (sum, path) in sums.lines().filter_map(|line| line.split_once("  ./")) {
        if let Some(entry) = entries.get_mut(path) {
            entry.push_str(sum);
        }
        files.push((path.to_owned(), folder.join(path)));
    }
    (entries, files, stage)
}

fn differing(a: &Entries, b: &Entries) -> Vec<String> {
    let paths = a.keys().chain(b.keys());
    let mut paths: Vec<String> =
        paths.filter(|path| a.get(*path) != b.get(*path)).cloned().collect();
    paths.sort();
    paths.dedup();
    paths
}

#[test]
fn packages_that_read_the_host_make_the_same_image_on_another_one() {
    let groups = fs::read_to_string(lab::file("field/groups")).unwrap();
    let mut wrong = Vec::new();
    for group in groups.lines() {
        let group: &'static str = group.to_owned().leak();
        // Each build has a mount namespace of its own: that of its thread.
        let on = |host: &'static Host, round: &'static str| {
            std::thread::spawn(move || {
                let (entries, files, _stage) = build(group, host, round);
                let traces: Vec<String> = files
                    .iter()
                    .flat_map(|(path, file)| {
                        let content = fs::read(file).unwrap();
                        let found = TRACES.iter().filter(move |trace| {
                            memchr::memmem::find(&content, trace.as_bytes()).is_some()
                        });
                        found.map(|trace| format!("{path} has {trace}")).collect::<Vec<_>>()
                    })
                    .collect();
                (entries, traces)
            })
            .join()
            .unwrap()
        };
        let (first, had) = on(&PLAIN, "first");
        let (again, _) = on(&PLAIN, "again");
        let (other, has) = on(&OTHER, "other");
        // Keys and passwords are random: they differ on one host as well.
        let random = differing(&first, &again);
        let differ: Vec<String> =
            differing(&first, &other).into_iter().filter(|path| !random.contains(path)).collect();
        let traces: Vec<&String> = has.iter().filter(|trace| !had.contains(trace)).collect();
        println!("{group}: {} entries, {} random", first.len(), random.len());
        if !differ.is_empty() || !traces.is_empty() {
            wrong.push(format!("{group}: differ: {differ:?}; traces: {traces:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

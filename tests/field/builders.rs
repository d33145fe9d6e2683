//! The same build on hosts that differ: packages whose maintainer scripts read the host name, name
//! servers, certificates and proxies, installed on each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::lab;
use crate::support::listing::{Listing, list};
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

/// Builds on `host` an overlay that has the packages of `group`. Returns its objects, and where in
/// it the traces of the second host are.
fn build(group: &str, host: &Host) -> (Listing, Vec<String>) {
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
    finish(&mut command).ok();

    let folder = stage.path("unpacked");
    fs::create_dir(&folder).unwrap();
    stage.sh(&format!(
        "cd '{}' && gzip -dc '{}' | cpio -idm --quiet --no-absolute-filenames",
        folder.display(),
        overlay.display()
    ));
    let traces = TRACES.iter().flat_map(|trace| {
        let found =
            stage.sh(&format!("cd '{}' && grep -rlF -e '{trace}' . || :", folder.display()));
        found.lines().map(|path| format!("{path} has {trace}")).collect::<Vec<_>>()
    });
    let mut listing = list(&folder);
    // GNU cpio does not set the times of links.
    for object in listing.values_mut().filter(|object| object.kind == "link") {
        object.mtime = 0;
    }
    (listing, traces.collect())
}

/// The paths at which two overlays differ.
fn differing(a: &Listing, b: &Listing) -> BTreeSet<String> {
    let paths = a.keys().chain(b.keys());
    paths.filter(|path| a.get(*path) != b.get(*path)).cloned().collect()
}

#[test]
fn packages_that_read_the_host_give_the_same_image_on_another_host() {
    let groups = fs::read_to_string(lab::file("field/groups")).unwrap();
    // Groups that have this word, for a look at one.
    let wanted = std::env::var("FIELD_GROUPS").unwrap_or_default();
    let mut wrong = Vec::new();
    for group in groups.lines().filter(|group| group.contains(&wanted)) {
        let group: &'static str = group.to_owned().leak();
        // Each build has a mount namespace of its own: that of its thread.
        let on =
            |host: &'static Host| std::thread::spawn(move || build(group, host)).join().unwrap();
        let ((first, had), (again, _), (other, has)) = (on(&PLAIN), on(&PLAIN), on(&OTHER));
        // Keys and passwords are random: they differ on one host as well.
        let random = differing(&first, &again);
        let differ: Vec<String> = differing(&first, &other).difference(&random).cloned().collect();
        let traces: Vec<&String> = has.iter().filter(|trace| !had.contains(trace)).collect();
        println!("{group}: {} entries, {} random", first.len(), random.len());
        if !differ.is_empty() || !traces.is_empty() {
            wrong.push(format!("{group}: differ: {differ:?}; traces: {traces:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

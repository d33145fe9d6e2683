//! tar archives as layers: the same root as the archive of the same changes in cpio.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::stage::{BOTH_USERS, EPOCH, Stage, Who, finish};

const CHANGES: &str = "cd /etc; echo new >motd; rm issue; ln motd srv-link; ln -s motd sym
    rm -r /usr/share/doc/bash; mkdir -m 750 /srv/d; chown 7:8 /srv/d; echo in >/srv/d/file
    touch -d @1500000000 /srv/d/file /srv/d; mknod /srv/null c 1 3; mkfifo /srv/fifo
    rm -r /etc/apt; mkdir -p /etc/apt; echo kept >/etc/apt/sources.list";

/// Saves the same changes in the format of each name.
fn overlays(stage: &Stage, names: &[&str]) -> Vec<PathBuf> {
    let save = |name: &&str| {
        let path = stage.out(Who::Root).join(name);
        let mut run = stage.overcoat(Who::Root);
        run.arg("run").arg(stage.debian()).arg("--save").arg(&path);
        finish(run.env("SOURCE_DATE_EPOCH", EPOCH).args(["--", "sh", "-c", CHANGES])).ok();
        path
    };
    names.iter().map(save).collect()
}

/// Returns the entries of a stack with all their attributes, without the names of layers and times
/// of the run.
fn entries(stage: &Stage, who: Who, images: &[&Path]) -> Vec<Value> {
    let mut ls = stage.overcoat(who);
    let listed = finish(ls.args(["ls", "-R", "--json"]).args(images)).ok();
    let json: Value = serde_json::from_slice(&listed.stdout).unwrap();
    json["entries"].as_array().unwrap().clone()
}

#[test]
fn tar_is_the_same_layer_as_cpio() {
    let stage = Stage::new();
    let made = overlays(&stage, &["o.cpio.gz", "o.tar"]);
    let [cpio, tar] = &made[..] else { unreachable!() };
    stage.sh("cd root; for c in gzip zstd xz; do $c -k o.tar; done");
    let base = stage.debian();
    let expected = entries(&stage, Who::Unprivileged, &[&base, cpio]);
    assert!(expected.iter().any(|entry| entry["deleted"] == true));
    for name in ["o.tar", "o.tar.gz", "o.tar.zst", "o.tar.xz"] {
        let tar = stage.out(Who::Root).join(name);
        let found = entries(&stage, Who::Unprivileged, &[&base, &tar]);
        assert_eq!(found, expected, "{name}");
    }
    let run = |arguments: &[&str], overlay: &Path| {
        let mut command = stage.overcoat(Who::Unprivileged);
        command.arg(arguments[0]).arg(&base).arg(overlay).args(&arguments[1..]);
        finish(&mut command)
    };
    for arguments in [
        &["diff", "--text"][..],
        &["diff", "--stat"],
        &["cat", ":/etc/motd"],
        &["du"],
        &["tree", ":/srv"],
        &["run", "--", "sh", "-c", "ls -ln /etc /srv; cat /etc/motd; test ! -e /etc/issue"],
    ] {
        let plain = |overlay: &Path| {
            let name = overlay.file_name().unwrap().to_str().unwrap();
            let found = run(arguments, overlay);
            (found.code, found.text().replace(name, "OVERLAY"))
        };
        assert_eq!(plain(tar), plain(cpio), "{arguments:?}");
    }
    let check = run(&["check", "--json"], tar);
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    let findings = report["checks"][0]["findings"].as_array().unwrap();
    assert!(
        !findings
            .iter()
            .any(|finding| { finding["lint"].as_str().unwrap().starts_with("archive/") }),
        "{report:#}"
    );
    // A truncated archive is damaged for all commands.
    let bytes = fs::read(tar).unwrap();
    let cut = stage.write("cut.tar", &bytes[..bytes.len() / 2]);
    run(&["ls"], &cut).code(2).stderr_has(&["cut.tar: damaged"]);
    let check = run(&["check"], &cut).code(1);
    assert!(check.text().contains("archive/unreadable"), "{}", check.text());
}

#[test]
fn root_as_tar_is_a_base_and_sealed_again_the_same_archive() {
    let stage = Stage::new();
    let overlay = overlays(&stage, &["o.tar"]).remove(0);
    for who in BOTH_USERS {
        let extract = |from: &[&Path], to: &str| {
            let mut extract = stage.overcoat(who);
            extract.arg("extract").args(from).args(["-o", to]).env("SOURCE_DATE_EPOCH", EPOCH);
            finish(&mut extract).ok();
            stage.out(who).join(to)
        };
        let base = stage.debian();
        let root = extract(&[&base, &overlay], "root.tar");
        let again = extract(&[&root], "again.tar");
        assert!(fs::read(&root).unwrap() == fs::read(&again).unwrap(), "{who:?}");
        let mut run = stage.overcoat(who);
        let script = "cat /etc/motd; dpkg --version | head -n 1; touch /srv/x";
        run.arg("run").arg(&root).args(["--save", "x.tar", "--", "sh", "-c", script]);
        let text = finish(&mut run).ok().text();
        assert!(text.starts_with("new\nDebian"), "{text}");
        let mut cat = stage.overcoat(who);
        let names = finish(cat.args(["ls", "-R", "x.tar"])).ok().text();
        assert_eq!(names, "srv\nsrv/x\n");
    }
}

#[test]
fn image_that_is_only_built_as_tar_is_a_layer_by_name() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    stage.write("site/p/provisioner.yml", "files: files\n");
    stage.write("site/p/files/srv/first", "1\n");
    stage.write("site/q/provisioner.yml", "files: files\n");
    stage.write("site/q/files/srv/second", "2\n");
    let base = stage.debian();
    let project = format!(
        "output: ../user/out\nimages:\n  first: {{base: {0}, provisioner: p, format: tar}}\n  \
         second: {{base: {0}, overlays: [first], provisioner: q}}\n",
        base.display()
    );
    stage.write("site/overcoat.yml", project);
    let site = stage.path("site");
    finish(stage.overcoat(who).arg("build").arg(&site)).ok();
    let mut cat = stage.overcoat(who);
    cat.current_dir(&site).args(["cat", "second", ":/srv/first", ":/srv/second"]);
    assert_eq!(finish(&mut cat).ok().text(), "1\n2\n");
    let mut ls = stage.overcoat(who);
    let listed = finish(ls.current_dir(&site).args(["ls", "first", ":/srv"])).ok().text();
    assert!(listed.contains("first") && !listed.contains("second"), "{listed}");
}

#[test]
fn names_in_access_lists_are_those_of_the_root() {
    let stage = Stage::new();
    // A layer with accounts between the base and the archives; www-data has other numbers there.
    stage.sh("mkdir -p accounts/etc; echo 'root:x:0:0::/root:/bin/sh
www-data:x:77:77::/:/bin/sh
somebody:x:4242:4243::/:/bin/sh' >accounts/etc/passwd; echo 'somegroup:x:4243:' >accounts/etc/group
         cd accounts; find . | cpio -o -H newc --quiet >../accounts.cpio");
    // GNU tar 1.34 writes the names of the machine, and writes numbers where it knows no name.
    let archive = |name: &str, members: &[(&str, &str)], files: &[(&str, &str)]| {
        let script = format!(
            "import io, sys, tarfile
archive = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
for name, acl in {members:?}:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o750
    member.pax_headers = {{'SCHILY.acl.access': acl, 'SCHILY.acl.default': acl}}
    archive.addfile(member)
for name, text in {files:?}:
    member = tarfile.TarInfo(name)
    member.size = len(text)
    archive.addfile(member, io.BytesIO(text.encode()))
archive.close()",
            members = members.iter().map(|(a, b)| [a, b]).collect::<Vec<_>>(),
            files = files.iter().map(|(a, b)| [a, b]).collect::<Vec<_>>(),
        );
        stage.write("archive.py", script);
        stage.sh(&format!("python3 archive.py {name}"));
        stage.path(name)
    };
    let named = |user: &str, group: &str| {
        format!(
            "user::rwx\nuser:{user}:r-x\ngroup::r-x\ngroup:{group}:r--\nmask::r-x\nother::---\n"
        )
    };
    let debian = archive("debian.tar", &[("srv/d", &named("www-data", "mail"))], &[]);
    let other = archive("other.tar", &[("srv/d", &named("somebody", "somegroup"))], &[]);
    let own = [("etc/passwd", "somebody:x:9:9::/:/bin/sh\n"), ("etc/group", "somegroup:x:10:\n")];
    let own = archive("own.tar", &[("srv/d", &named("somebody", "somegroup"))], &own);
    let (base, accounts) = (stage.debian(), stage.path("accounts.cpio"));
    let read = "import os, struct
for name in ('access', 'default'):
    value = os.getxattr('/srv/d', 'system.posix_acl_' + name)[4:]
    entries = [struct.unpack_from('<HHI', value, at) for at in range(0, len(value), 8)]
    print(*('%d:%d:%d' % entry for entry in entries if entry[2] != 0xffffffff), end=' ')
print(oct(os.stat('/srv/d').st_mode))";
    for (images, wanted) in [
        (vec![&base, &debian], "2:5:33 8:4:8 2:5:33 8:4:8 0o40750\n"),
        (vec![&base, &accounts, &other], "2:5:4242 8:4:4243 2:5:4242 8:4:4243 0o40750\n"),
        (vec![&base, &accounts, &own], "2:5:9 8:4:10 2:5:9 8:4:10 0o40750\n"),
        (vec![&base, &own], "2:5:9 8:4:10 2:5:9 8:4:10 0o40750\n"),
    ] {
        let mut run = stage.overcoat(Who::Root);
        run.arg("run").args(&images).args(["--save", "x.tar", "--no-manifest", "--"]);
        assert_eq!(finish(run.args(["python3", "-c", read])).ok().text(), wanted, "{images:?}");
        // These open the layers one at a time.
        for command in ["diff", "check", "ls", "du"] {
            let mut look = stage.overcoat(Who::Unprivileged);
            let finished = finish(look.arg(command).args(&images));
            assert!(finished.code < 2, "{command}: {}", finished.stderr);
            assert!(!finished.text().contains("archive/unreadable"), "{}", finished.text());
        }
    }
    // Without layers below, the accounts are Debian's.
    let mut ls = stage.overcoat(Who::Unprivileged);
    finish(ls.arg("ls").arg(&debian)).ok();
    for images in [vec![&other], vec![&base, &other]] {
        let mut run = stage.overcoat(Who::Unprivileged);
        run.arg("ls").args(&images);
        let parts = ["other.tar: ", "srv/d: its ACL names somebody", "bsdtar --acls"];
        finish(&mut run).code(2).stderr_has(&parts);
    }
    // The advice works: bsdtar writes the number 1 of the machine's user daemon, too.
    stage.sh(
        "mkdir -p packed/srv/d packed/etc; echo root:x:0:0::/root:/bin/sh >packed/etc/passwd
         python3 -c \"import os, struct
entries = [(1, 7, -1), (2, 5, 1), (4, 5, -1), (16, 5, -1), (32, 0, -1)]
value = struct.pack('<I', 2) + b''.join(struct.pack('<HHi', *entry) for entry in entries)
os.setxattr('packed/srv/d', 'system.posix_acl_access', value)\"
         bsdtar --acls -cf packed.tar -C packed srv etc; tr -d '\\0' <packed.tar | grep -q user:daemon",
    );
    let mut ls = stage.overcoat(Who::Unprivileged);
    finish(ls.arg("ls").arg(stage.path("packed.tar"))).ok();
}

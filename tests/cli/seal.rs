//! `seal`, which writes the changes in a mounted root to an artifact.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};

use crate::interruption::FILL_MAPPING;
use crate::mount_fixture::{MountPoint, folder_base};
use crate::support::listing::{assert_same, list};
use crate::support::processes::eventually;
use crate::support::stage::{BOTH_USERS, EPOCH, Stage, Who, finish};
use crate::{inner_program, torture, unpacking};

#[test]
fn sealed_archive_unpacks_to_the_mounted_tree() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = unpacking::torture_base(&stage);
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw"], &[&base]).ok();
    torture::torture(&mnt.dir);
    let truth = list(&mnt.dir);
    let archive = stage.out(who).join("torture.cpio.gz");
    finish(stage.overcoat(who).arg("seal").arg(&mnt.dir).arg("-o").arg(&archive)).ok();
    assert_same("the tree after sealing", &truth, &list(&mnt.dir));
    let again = stage.out(who).join("again.cpio.gz");
    let seal = |epoch: bool, output: &Path| {
        let mut command = stage.overcoat(who);
        if epoch {
            command.env("SOURCE_DATE_EPOCH", EPOCH);
        }
        finish(command.arg("seal").arg(&mnt.dir).arg("-o").arg(output)).ok();
        fs::read(output).unwrap()
    };
    assert!(seal(false, &again) == fs::read(&archive).unwrap(), "sealed twice");
    let mounted = seal(true, &again);
    mnt.end();
    unpacking::assert_unpacks(&stage, who, &base, &archive, &truth, &unpacking::UNPACKERS[..2]);
    // `run` creates the same archive.
    inner_program::run(&stage, who, &[&base], "torture", |command| {
        command.env("SOURCE_DATE_EPOCH", EPOCH).arg("--save").arg(&archive);
    });
    assert!(mounted == fs::read(&archive).unwrap(), "mount and run differ");
}

#[test]
fn mount_can_be_sealed_repeatedly_while_in_use() {
    let stage = Stage::new();
    for who in BOTH_USERS {
        let base = stage.debian();
        let mnt = MountPoint::new(&stage, who);
        mnt.mount(&["--rw"], &[&base]).ok();
        mnt.sh("cd mnt; echo one > etc/one; mkdir new; echo > new/file; mv etc/hostname new/; rm -r usr/share",
        )
        .ok();
        let seal = |output: &str| {
            let mut command = stage.overcoat(who);
            command.args(["seal", "mnt", "-o", output]).env("SOURCE_DATE_EPOCH", EPOCH);
            finish(&mut command).ok()
        };
        let names = |content: &[u8]| {
            stage.write("archive", content);
            stage.sh("gzip -dc archive | cpio --quiet -itvn | awk '{ print $1, $3, $4, $NF }'")
        };
        seal("first.cpio.gz");
        let first = fs::read(stage.out(who).join("first.cpio.gz")).unwrap();
        let listed = names(&first);
        for line in [
            "-rw-r--r-- 0 0 etc/one",
            "drwxr-xr-x 0 0 new",
            "-rw-r--r-- 0 0 new/file",
            "c--------- 0 0 etc/hostname",
            "c--------- 0 0 usr/share",
        ] {
            assert!(listed.lines().any(|l| l == line), "{who:?}: no {line:?}\n{listed}");
        }
        // To standard output, and after more changes.
        assert!(seal("-").stdout == first, "{who:?}: standard output");
        mnt.sh("cd mnt; mv new/hostname etc/; rm -r new etc/one").ok();
        seal("second.cpio.gz");
        let second = names(&fs::read(stage.out(who).join("second.cpio.gz")).unwrap());
        assert!(!second.contains("hostname") && !second.contains("etc/one"), "{second}");
        mnt.end();
        assert!(stage.out(who).join("first.cpio.gz.manifest.json").exists());
    }
}

#[test]
fn seal_is_cancelled_when_its_client_is_killed() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let who = Who::Unprivileged;
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw", "--upper-size", "1G"], &[&base]).ok();
    mnt.sh("head -c 300M /dev/urandom >mnt/large").ok();
    // This level is slow enough to be killed before the end.
    let mut slow = stage.overcoat(who);
    let mut slow = slow.args(["seal", "mnt", "-o", "x.cpio.zst", "--level", "19"]).spawn().unwrap();
    eventually("the output is open", || {
        let open = |pid: &Pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let is_output = |fd: fs::DirEntry| {
            fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(stage.out(who)))
        };
        mnt.servers().iter().any(|pid| open(pid).any(is_output))
    });
    slow.kill().unwrap();
    slow.wait().unwrap();
    // Seals run one after the other: when the second one is complete, the first one has ended.
    mnt.seal(&["-o", "y.cpio", "--no-manifest"]).ok();
    let names: Vec<_> =
        stage.files(who).into_iter().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["user/mnt", "user/y.cpio"]);
    mnt.umount().ok();
}

#[test]
fn seal_fails_if_mapped_data_was_lost() {
    let stage = Stage::new();
    let who = Who::Root;
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw", "--upper-size", "2M"], &[&folder_base(&stage)]).ok();
    mnt.sh(&format!("cd mnt; python3 -c \"{FILL_MAPPING}\" large")).ok();
    let seal = || mnt.seal(&["-o", "out.cpio.gz"]);
    seal().code(2).stderr_has(&["is lost, in /large: delete these files", "--upper-size"]);
    assert!(!stage.out(who).join("out.cpio.gz").exists());
    mnt.sh("rm mnt/large").ok();
    seal().ok();
    mnt.end();
}

#[test]
fn seal_into_its_own_mount_is_rejected() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in BOTH_USERS {
        let mnt = MountPoint::new(&stage, who);
        mnt.mount(&["--rw"], &[&base]).ok();
        let (program, inside) = (stage.path("overcoat"), mnt.dir.join("inside.tar"));
        let into = format!("> '{}'", inside.display());
        let seal = format!("'{}' seal '{}' -o -", program.display(), mnt.dir.display());
        let parts = ["standard output", "is inside the mount itself"];
        mnt.sh(&format!("{seal} --format tar {into}")).code(2).stderr_has(&parts);
        // The mount still answers.
        mnt.sh(&format!("rm '{}'", inside.display())).ok();
        mnt.end();

        // A layer that contains the mount point.
        let layer = stage.out(who);
        mnt.mount(&["--rw"], &[&layer]).code(2).stderr_has(&["is inside the layer"]);
        mnt.assert_mounts_unchanged();
    }
}

#[test]
fn seal_of_an_unchanged_mount_changes_nothing() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = folder_base(&stage);
    stage.sh("chmod 711 base; chown 3:4 base; touch -d @1000000000 base");
    let mnt = MountPoint::new(&stage, who);
    let root = || {
        let found = fs::metadata(&mnt.dir).unwrap();
        (found.mode(), found.uid(), found.gid(), found.mtime())
    };
    for format in ["cpio.gz", "squashfs"] {
        let overlay = stage.out(who).join(format!("nothing.{format}"));
        mnt.mount(&["--rw"], &[&base]).ok();
        let expected = root();
        assert_eq!(expected, (0o40711, 3, 4, 1_000_000_000));
        finish(stage.overcoat(who).arg("seal").arg(&mnt.dir).arg("-o").arg(&overlay)).ok();
        mnt.umount().ok();
        mnt.mount(&[], &[&base, &overlay]).ok();
        assert_eq!(root(), expected, "{format}");
        assert_eq!(fs::read_to_string(mnt.dir.join("file")).unwrap(), "of the base");
        mnt.umount().ok();
    }
}

#[test]
fn overlong_path_is_reported_and_can_be_shortened() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = folder_base(&stage);
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw"], &[&base]).ok();
    // 50 nested folders with names of 100 bytes: too long for one path, so created step by step.
    let mut at = fs::File::open(&mnt.dir).unwrap();
    for number in 10..60 {
        let name = format!("d{number}{:097}", 0);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).unwrap().into();
    }
    rustix::fs::openat(&at, "file", OFlags::CREATE, Mode::RWXU).unwrap();
    drop(at);
    let seal = |output: &str| mnt.seal(&["-o", output]);
    for output in ["x.cpio.gz", "x.tar", "x.squashfs"] {
        let parts = ["/d10000", "…", "/d50000", "the path has 4140 bytes", "shorter name"];
        let error = seal(output).code(2).stderr_has(&parts).stderr;
        assert!(error.len() < 500, "{error}");
    }
    assert_eq!(stage.files(who).len(), 1, "{:?}", stage.files(who));
    // After moving the tree up, it can be sealed.
    let up = format!("mv mnt/{}d20* mnt/up", "d1*/".repeat(10));
    mnt.sh(&up).ok();
    seal("x.cpio.gz").ok();
    mnt.umount().ok();
}

#[test]
fn long_lists_of_lost_attributes_are_shortened_without_verbose() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = folder_base(&stage);
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw"], &[&base]).ok();
    for number in 100..200 {
        let name = format!("user.a{number}");
        let how = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(mnt.dir.join("file"), name.as_str(), b"", how).unwrap();
        fs::write(mnt.dir.join(format!("more{number}")), "").unwrap();
        rustix::fs::setxattr(mnt.dir.join(format!("more{number}")), "user.b", b"", how).unwrap();
    }
    let seal = |more: &[&str]| mnt.seal(&[&["-o", "x.cpio"], more].concat()).ok();
    let parts = ["/file: ", "user.a104, and 95 more", "/more108: ", "…and 91 more warnings; -v"];
    let short = seal(&[]).stderr_has(&parts).stderr;
    assert!(short.lines().count() == 12 && short.len() < 1500, "{short}");
    let all = seal(&["-v"]).stderr_has(&["user.a199", "/more199: "]).stderr;
    assert!(all.lines().count() == 102 && !all.contains('…'), "{all}");
    // The JSON report is complete.
    assert!(seal(&["--json"]).text().contains("user.a199"));
    mnt.umount().ok();
}

/// Names that mean deletions in some archives are ordinary files in archives of overcoat.
#[test]
fn whiteout_names_are_sealed_as_files() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = stage.write("base/x", "of the base").parent().unwrap().to_owned();
    stage.sh("cd base; mkdir d; echo > d/.wh.old; echo > d/old; touch -d @1000000000 d .");
    let mnt = MountPoint::new(&stage, who);
    let seal = |output: &Path| {
        finish(stage.overcoat(who).arg("seal").arg(&mnt.dir).arg("-o").arg(output)).ok();
    };
    for format in ["cpio.gz", "squashfs"] {
        let overlay = stage.out(who).join(format!("odd.{format}"));
        mnt.mount(&["--rw"], &[&base]).ok();
        let make = "
            cd mnt; echo x > .wh.x; mkdir .wh.d; echo > .wh.d/.wh..wh..opq; echo > d/.wh..wh..opq
            echo > .wh.; rm d/.wh.old; ln d/old .wh.old; ln -s nothing .wh.link
            find . -exec touch -h -d @1000000000 {} +";
        mnt.sh(make).ok();
        let seen = list(&mnt.dir);
        for name in ["x", ".wh.x", ".wh.d/.wh..wh..opq", "d/.wh..wh..opq", ".wh.link"] {
            assert!(seen.contains_key(name), "{name}\n{seen:?}");
        }
        seal(&overlay);
        mnt.umount().ok();

        mnt.mount(&["--rw"], &[&base, &overlay]).ok();
        assert_same(format, &seen, &list(&mnt.dir));
        seal(&stage.out(who).join("nothing.cpio"));
        // The same tree, copied onto the base, is sealed to the same bytes.
        mnt.sh("cp -a mnt copy").ok();
        mnt.umount().ok();
        assert_eq!(stage.sh("cpio --quiet -t < root/nothing.cpio"), ".\n", "{format}");
        mnt.mount(&["--rw"], &[&base]).ok();
        mnt.sh("rm -r mnt/*; cp -aT copy mnt; rm -r copy").ok();
        let again = stage.out(who).join(format!("again.{format}"));
        seal(&again);
        mnt.umount().ok();
        assert!(fs::read(&overlay).unwrap() == fs::read(&again).unwrap(), "{format}");
    }
}

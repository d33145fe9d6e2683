//! Roots that are mounted where the host sees them: `mount`, `seal`, `umount`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{Mode, OFlags};

use crate::support::listing::{assert_same, list};
use crate::support::processes::eventually;
use crate::support::stage::{EPOCH, EVERYBODY, Finished, Stage, Who, finish};
use crate::{inner_program, torture, unpacking};

/// An empty folder to mount on.
pub(crate) fn place(stage: &Stage, who: Who) -> PathBuf {
    let dir = stage.out(who).join("mnt");
    fs::create_dir(&dir).unwrap();
    stage.give(&dir, who);
    dir
}

pub(crate) fn mount(
    stage: &Stage,
    who: Who,
    options: &[&str],
    layers: &[&Path],
    dir: &Path,
) -> Finished {
    finish(stage.overcoat(who).arg("mount").args(options).args(layers).arg(dir))
}

pub(crate) fn umount(stage: &Stage, who: Who, dir: &Path) -> Finished {
    finish(stage.overcoat(who).arg("umount").arg(dir))
}

/// A shell script that `who` runs on the host.
fn sh(stage: &Stage, who: Who, script: &str) -> Finished {
    finish(stage.command(who, "sh").args(["-euc", script]))
}

/// The processes that serve `dir`.
pub(crate) fn servers(dir: &Path) -> Vec<Pid> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let serves = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.contains(&b"mount".as_slice())
            && words.contains(&dir.as_os_str().as_encoded_bytes())
            && words[0].ends_with(b"/overcoat")
    };
    pids.filter(serves).map(Pid::from_raw).collect()
}

#[track_caller]
pub(crate) fn nothing_is_left(dir: &Path, mounts: &str) {
    eventually("the server has ended", || servers(dir).is_empty());
    assert_eq!(Stage::mounts(), mounts);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
}

#[test]
fn a_mounted_base_is_what_the_kernel_mounts() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = unpacking::torture_base(&stage);
    let expected = unpacking::kernel_base(&stage, &base);
    let dir = place(&stage, who);
    let mounts = Stage::mounts();
    mount(&stage, who, &[], &[&base], &dir).ok();
    assert_same("mounted", &expected, &list(&dir));
    let error = fs::write(dir.join("etc/hostname"), "other").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    umount(&stage, who, &dir).ok();
    nothing_is_left(&dir, &mounts);
}

#[test]
fn a_mount_without_rights_shows_every_file_to_its_user() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let base = stage.debian();
    let dir = place(&stage, who);
    let mounts = Stage::mounts();
    let digests = "find . -xdev -type f -perm -004 -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    mount(&stage, who, &[], &[&base], &dir).ok();
    let found = sh(&stage, who, &format!("cd mnt; {digests}")).ok().text();
    umount(&stage, who, &dir).ok();
    nothing_is_left(&dir, &mounts);
    let kernel = stage.path("kernel");
    fs::create_dir(&kernel).unwrap();
    let script = "mount -t squashfs -o loop,ro lab/base.squashfs kernel; cd kernel;";
    let expected = stage.sh(&format!("{script} {digests}; cd ..; umount -l kernel"));
    assert!(expected.lines().count() > 1000);
    assert!(expected == found, "what is read differs");
}

#[test]
fn a_tortured_mount_unpacks_to_what_was_seen() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = unpacking::torture_base(&stage);
    let dir = place(&stage, who);
    let mounts = Stage::mounts();
    mount(&stage, who, &["--rw"], &[&base], &dir).ok();
    torture::torture(&dir);
    let truth = list(&dir);
    let archive = stage.out(who).join("torture.cpio.gz");
    finish(stage.overcoat(who).arg("seal").arg(&dir).arg("-o").arg(&archive)).ok();
    assert_same("sealing changed something", &truth, &list(&dir));
    let again = stage.out(who).join("again.cpio.gz");
    let seal = |epoch: bool, output: &Path| {
        let mut command = stage.overcoat(who);
        if epoch {
            command.env("SOURCE_DATE_EPOCH", EPOCH);
        }
        finish(command.arg("seal").arg(&dir).arg("-o").arg(output)).ok();
        fs::read(output).unwrap()
    };
    assert!(seal(false, &again) == fs::read(&archive).unwrap(), "sealed twice");
    let mounted = seal(true, &again);
    umount(&stage, who, &dir).ok();
    nothing_is_left(&dir, &mounts);
    unpacking::assert_unpacks(&stage, who, &base, &archive, &truth, &unpacking::UNPACKERS[..2]);
    // It is what a run gives.
    inner_program::run(&stage, who, &[&base], "torture", |command| {
        command.env("SOURCE_DATE_EPOCH", EPOCH).arg("--save").arg(&archive);
    });
    assert!(mounted == fs::read(&archive).unwrap(), "mount and run differ");
}

#[test]
fn what_is_written_to_a_mount_is_sealed_while_it_goes_on() {
    let stage = Stage::new();
    for who in EVERYBODY {
        let base = stage.debian();
        let dir = place(&stage, who);
        let mounts = Stage::mounts();
        mount(&stage, who, &["--rw"], &[&base], &dir).ok();
        sh(
            &stage,
            who,
            "cd mnt; echo one > etc/one; mkdir new; echo > new/file; mv etc/hostname new/; rm -r usr/share",
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
        // To standard output, and after more work.
        assert!(seal("-").stdout == first, "{who:?}: standard output");
        sh(&stage, who, "cd mnt; mv new/hostname etc/; rm -r new etc/one").ok();
        seal("second.cpio.gz");
        let second = names(&fs::read(stage.out(who).join("second.cpio.gz")).unwrap());
        assert!(!second.contains("hostname") && !second.contains("etc/one"), "{second}");
        umount(&stage, who, &dir).ok();
        nothing_is_left(&dir, &mounts);
        assert!(stage.out(who).join("first.cpio.gz.manifest.json").exists());
    }
}

#[test]
fn a_server_that_is_asked_to_end_takes_its_mount_away() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in EVERYBODY {
        let dir = place(&stage, who);
        let mounts = Stage::mounts();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mount(&stage, who, &["--rw"], &[&base], &dir).ok();
            sh(&stage, who, "echo new > mnt/etc/new").ok();
            let servers = servers(&dir);
            assert_eq!(servers.len(), 1, "{servers:?}");
            kill(servers[0], signal).unwrap();
            nothing_is_left(&dir, &mounts);
        }
    }
}

#[test]
fn a_mount_whose_server_was_killed_can_be_taken_away() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in EVERYBODY {
        let dir = place(&stage, who);
        let mounts = Stage::mounts();
        mount(&stage, who, &[], &[&base], &dir).ok();
        kill(servers(&dir)[0], Signal::SIGKILL).unwrap();
        eventually("the server has ended", || servers(&dir).is_empty());
        umount(&stage, who, &dir).ok();
        nothing_is_left(&dir, &mounts);
    }
}

#[test]
fn a_mount_in_the_foreground_stays_there() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in EVERYBODY {
        let dir = place(&stage, who);
        let mounts = Stage::mounts();
        let mut command = stage.overcoat(who);
        let mut child = command.arg("mount").arg("-f").arg(&base).arg(&dir).spawn().unwrap();
        let device = fs::metadata(stage.out(who)).unwrap().dev();
        eventually("it is mounted", || {
            let found = sh(&stage, who, "stat -c %d mnt").text();
            found.trim().parse::<u64>().is_ok_and(|found| found != device)
        });
        assert_eq!(servers(&dir), [Pid::from_raw(child.id() as i32)]);
        match who {
            Who::Root => umount(&stage, who, &dir).ok().code,
            Who::Unprivileged => {
                kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
                0
            }
        };
        let status = child.wait().unwrap();
        assert!(matches!(status.code(), Some(0 | 130)), "{status}");
        nothing_is_left(&dir, &mounts);
    }
}

#[test]
fn mistakes_with_mounts_are_named_and_leave_nothing() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let text = stage.write("text.squashfs", "This is no image.\n");
    for who in EVERYBODY {
        let dir = place(&stage, who);
        let mounts = Stage::mounts();
        let missing = stage.out(who).join("missing");
        mount(&stage, who, &[], &[&base], &missing).code(2).says(&["missing", "No such file"]);
        mount(&stage, who, &[], &[&missing], &dir).code(2).says(&["missing", "No such file"]);
        mount(&stage, who, &[], &[&text], &dir)
            .code(2)
            .says(&["text.squashfs", "not a squashfs image"]);
        mount(&stage, who, &[], &[&base], &base).code(2).says(&["torture.squashfs"]);
        let limited = ["--upper-size", "1G"];
        mount(&stage, who, &limited, &[&base], &dir).code(2).says(&["--upper-size", "--rw"]);
        umount(&stage, who, &dir).code(2).says(&["mnt"]);
        let seal =
            |output: &str| finish(stage.overcoat(who).args(["seal", "mnt", "-o", output])).code(2);
        seal("out.cpio").says(&["mnt", "overcoat mount"]);
        nothing_is_left(&dir, &mounts);
        mount(&stage, who, &["--rw"], &[&base], &dir).ok();
        let part = finish(stage.overcoat(who).args(["seal", "mnt/etc", "-o", "x.cpio"]));
        part.code(2)
            .says(&["mnt/etc: is inside a mounted root", &format!("give {}", dir.display())]);
        seal("out.unknown").says(&["--format"]);
        seal("mnt/out.cpio").says(&["mnt/out.cpio", "the mount itself"]);
        seal("missing/out.cpio").says(&["missing/out.", "No such file"]);
        umount(&stage, who, &dir).ok();
        nothing_is_left(&dir, &mounts);
        assert_eq!(stage.files(who).len(), 1, "{:?}", stage.files(who));
    }
}

/// Resident memory of a process, in MiB.
fn resident(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn what_is_deleted_is_no_longer_in_memory() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let who = Who::Unprivileged;
    let dir = place(&stage, who);
    mount(&stage, who, &["--rw", "--upper-size", "1G"], &[&base], &dir).ok();
    let server = servers(&dir)[0];
    let before = resident(server);
    let fill = "for n in 1 2 3 4; do head -c 50M /dev/urandom >mnt/$n; done";
    // All files but what lies last in the heap, one file in one piece, and an end cut off.
    for free in
        ["rm mnt/1 mnt/2 mnt/3", "cat mnt/? >mnt/all; rm mnt/?; rm mnt/all", ": >mnt/1; rm mnt/?"]
    {
        sh(&stage, who, fill).ok();
        assert!(resident(server) > before + 190, "{} MiB", resident(server));
        sh(&stage, who, free).ok();
        eventually("memory is given back", || resident(server) < before + 80);
        sh(&stage, who, "rm -f mnt/?").ok();
    }
    umount(&stage, who, &dir).ok();
}

#[test]
fn a_seal_that_nobody_waits_for_any_more_is_given_up() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let who = Who::Unprivileged;
    let dir = place(&stage, who);
    mount(&stage, who, &["--rw", "--upper-size", "1G"], &[&base], &dir).ok();
    sh(&stage, who, "head -c 300M /dev/urandom >mnt/large").ok();
    // Slow enough to be killed in the middle.
    let mut slow = stage.overcoat(who);
    let mut slow = slow.args(["seal", "mnt", "-o", "x.cpio.zst", "--level", "19"]).spawn().unwrap();
    eventually("it is being written", || {
        let open = |pid: &Pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let is_output = |fd: fs::DirEntry| {
            fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(stage.out(who)))
        };
        servers(&dir).iter().any(|pid| open(pid).any(is_output))
    });
    slow.kill().unwrap();
    slow.wait().unwrap();
    // One after the other: when the second is done, so is the first.
    finish(stage.overcoat(who).args(["seal", "mnt", "-o", "y.cpio", "--no-manifest"])).ok();
    let names: Vec<_> =
        stage.files(who).into_iter().map(|path| path.display().to_string()).collect();
    assert_eq!(names, ["user/mnt", "user/y.cpio"]);
    umount(&stage, who, &dir).ok();
}

#[test]
fn a_directory_is_mounted_on_once() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in EVERYBODY {
        let dir = place(&stage, who);
        mount(&stage, who, &[], &[&base], &dir).ok();
        mount(&stage, who, &[], &[&base], &dir).code(2).says(&["mounted there already"]);
        umount(&stage, who, &dir).ok();
    }
}

#[test]
fn what_would_wait_for_itself_is_refused() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in EVERYBODY {
        let dir = place(&stage, who);
        let mounts = Stage::mounts();
        mount(&stage, who, &["--rw"], &[&base], &dir).ok();
        let (program, inside) = (stage.path("overcoat"), dir.join("inside.tar"));
        let into = format!("> '{}'", inside.display());
        let seal = format!("'{}' seal '{}' -o -", program.display(), dir.display());
        let said = ["standard output", "is inside the mount itself"];
        sh(&stage, who, &format!("{seal} --format tar {into}")).code(2).says(&said);
        // It goes on answering.
        sh(&stage, who, &format!("rm '{}'", inside.display())).ok();
        umount(&stage, who, &dir).ok();
        nothing_is_left(&dir, &mounts);

        // A layer below which the root would lie.
        let layer = stage.out(who);
        mount(&stage, who, &["--rw"], &[&layer], &dir).code(2).says(&["is inside the layer"]);
        assert_eq!(Stage::mounts(), mounts);
    }
}

#[test]
fn what_is_sealed_of_an_unchanged_mount_changes_nothing() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = stage.write("base/file", "of the base").parent().unwrap().to_owned();
    stage.sh("chmod 711 base; chown 3:4 base; touch -d @1000000000 base");
    let dir = place(&stage, who);
    let root = || {
        let found = fs::metadata(&dir).unwrap();
        (found.mode(), found.uid(), found.gid(), found.mtime())
    };
    for format in ["cpio.gz", "squashfs"] {
        let overlay = stage.out(who).join(format!("nothing.{format}"));
        mount(&stage, who, &["--rw"], &[&base], &dir).ok();
        let expected = root();
        assert_eq!(expected, (0o40711, 3, 4, 1_000_000_000));
        finish(stage.overcoat(who).arg("seal").arg(&dir).arg("-o").arg(&overlay)).ok();
        umount(&stage, who, &dir).ok();
        mount(&stage, who, &[], &[&base, &overlay], &dir).ok();
        assert_eq!(root(), expected, "{format}");
        assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "of the base");
        umount(&stage, who, &dir).ok();
    }
}

#[test]
fn a_path_that_no_archive_holds_is_named_and_can_be_mended() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = stage.write("base/file", "of the base").parent().unwrap().to_owned();
    let dir = place(&stage, who);
    mount(&stage, who, &["--rw"], &[&base], &dir).ok();
    // 50 folders of 100 bytes each, and a file: too deep for a path, so step by step.
    let mut at = fs::File::open(&dir).unwrap();
    for number in 10..60 {
        let name = format!("d{number}{:097}", 0);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).unwrap().into();
    }
    rustix::fs::openat(&at, "file", OFlags::CREATE, Mode::RWXU).unwrap();
    drop(at);
    let seal = |output: &str| finish(stage.overcoat(who).args(["seal", "mnt", "-o", output]));
    for output in ["x.cpio.gz", "x.tar", "x.squashfs"] {
        let said = ["/d10000", "…", "/d50000", "the path has 4140 bytes", "shorter name"];
        let error = seal(output).code(2).says(&said).stderr;
        assert!(error.len() < 500, "{error}");
    }
    assert_eq!(stage.files(who).len(), 1, "{:?}", stage.files(who));
    // What to do about it.
    let up = format!("mv mnt/{}d20* mnt/up", "d1*/".repeat(10));
    sh(&stage, who, &up).ok();
    seal("x.cpio.gz").ok();
    umount(&stage, who, &dir).ok();
}

#[test]
fn long_lists_of_what_is_lost_are_cut_short_unless_all_is_asked_for() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = stage.write("base/file", "of the base").parent().unwrap().to_owned();
    let dir = place(&stage, who);
    mount(&stage, who, &["--rw"], &[&base], &dir).ok();
    for number in 100..200 {
        let name = format!("user.a{number}");
        let how = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(dir.join("file"), name.as_str(), b"", how).unwrap();
        fs::write(dir.join(format!("more{number}")), "").unwrap();
        rustix::fs::setxattr(dir.join(format!("more{number}")), "user.b", b"", how).unwrap();
    }
    let seal = |more: &[&str]| {
        finish(stage.overcoat(who).args(["seal", "mnt", "-o", "x.cpio"]).args(more)).ok()
    };
    let said = ["/file: ", "user.a104 …and 95 more", "/more108: ", "…and 91 more warnings; -v"];
    let short = seal(&[]).says(&said).stderr;
    assert!(short.lines().count() == 12 && short.len() < 1500, "{short}");
    let all = seal(&["-v"]).says(&["user.a199", "/more199: "]).stderr;
    assert!(all.lines().count() == 102 && !all.contains('…'), "{all}");
    // Programs get everything.
    assert!(seal(&["--json"]).text().contains("user.a199"));
    umount(&stage, who, &dir).ok();
}

/// Names that stand for deletions in some archives are files in what overcoat itself writes.
#[test]
fn names_of_whiteouts_are_files_in_what_is_sealed() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = stage.write("base/x", "of the base").parent().unwrap().to_owned();
    stage.sh("cd base; mkdir d; echo > d/.wh.old; echo > d/old; touch -d @1000000000 d .");
    let dir = place(&stage, who);
    let seal = |output: &Path| {
        finish(stage.overcoat(who).arg("seal").arg(&dir).arg("-o").arg(output)).ok();
    };
    for format in ["cpio.gz", "squashfs"] {
        let overlay = stage.out(who).join(format!("odd.{format}"));
        mount(&stage, who, &["--rw"], &[&base], &dir).ok();
        let make = "
            cd mnt; echo x > .wh.x; mkdir .wh.d; echo > .wh.d/.wh..wh..opq; echo > d/.wh..wh..opq
            echo > .wh.; rm d/.wh.old; ln d/old .wh.old; ln -s nothing .wh.link
            find . -exec touch -h -d @1000000000 {} +";
        sh(&stage, who, make).ok();
        let seen = list(&dir);
        for name in ["x", ".wh.x", ".wh.d/.wh..wh..opq", "d/.wh..wh..opq", ".wh.link"] {
            assert!(seen.contains_key(name), "{name}\n{seen:?}");
        }
        seal(&overlay);
        umount(&stage, who, &dir).ok();

        mount(&stage, who, &["--rw"], &[&base, &overlay], &dir).ok();
        assert_same(format, &seen, &list(&dir));
        seal(&stage.out(who).join("nothing.cpio"));
        // From it the same tree over the base, and that sealed again.
        sh(&stage, who, "cp -a mnt copy").ok();
        umount(&stage, who, &dir).ok();
        assert_eq!(stage.sh("cpio --quiet -t < root/nothing.cpio"), ".\n", "{format}");
        mount(&stage, who, &["--rw"], &[&base], &dir).ok();
        sh(&stage, who, "rm -r mnt/*; cp -aT copy mnt; rm -r copy").ok();
        let again = stage.out(who).join(format!("again.{format}"));
        seal(&again);
        umount(&stage, who, &dir).ok();
        assert!(fs::read(&overlay).unwrap() == fs::read(&again).unwrap(), "{format}");
    }
}

/// An archive that others made, without an entry for its root.
#[test]
fn an_overlay_without_a_root_of_its_own_leaves_that_of_the_base() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = stage.write("base/file", "of the base").parent().unwrap().to_owned();
    stage.sh("chmod 711 base; chown 3:4 base; touch -d @1000000000 base
         mkdir over; cd over; echo new > new; echo new | cpio --quiet -o -H newc > ../over.cpio");
    let dir = place(&stage, who);
    mount(&stage, who, &["--rw"], &[&base, &stage.path("over.cpio")], &dir).ok();
    let found = fs::metadata(&dir).unwrap();
    let found = (found.mode(), found.uid(), found.gid(), found.mtime());
    assert_eq!(found, (0o40711, 3, 4, 1_000_000_000));
    assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "new\n");
    // And so does what is sealed on top of both.
    sh(&stage, who, "echo > mnt/newer").ok();
    finish(stage.overcoat(who).args(["seal", "mnt", "-o", "top.cpio"])).ok();
    umount(&stage, who, &dir).ok();
    let listed = stage.sh("cpio --quiet -itvn < root/top.cpio | awk '{ print $1, $3, $4, $NF }'");
    assert_eq!(listed.lines().next(), Some("drwx--x--x 3 4 ."), "{listed}");
}

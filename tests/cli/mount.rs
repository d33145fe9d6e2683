//! `mount` and `umount`: roots that are mounted where the host sees them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::mount_fixture::{MountPoint, folder_base};
use crate::support::listing::{assert_same, list};
use crate::support::processes::eventually;
use crate::support::stage::{BOTH_USERS, Stage, Who, finish};
use crate::unpacking;

#[test]
fn mounted_base_equals_the_kernel_mount() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = unpacking::torture_base(&stage);
    let expected = unpacking::kernel_base(&stage, &base);
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&[], &[&base]).ok();
    assert_same("mounted", &expected, &list(&mnt.dir));
    let error = fs::write(mnt.dir.join("etc/hostname"), "other").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    mnt.end();
}

#[test]
fn unprivileged_mount_shows_every_file_to_its_user() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let base = stage.debian();
    let mnt = MountPoint::new(&stage, who);
    let digests = "find . -xdev -type f -perm -004 -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";
    mnt.mount(&[], &[&base]).ok();
    let found = mnt.sh(&format!("cd mnt; {digests}")).ok().text();
    mnt.end();
    let kernel = stage.path("kernel");
    fs::create_dir(&kernel).unwrap();
    let script = "mount -t squashfs -o loop,ro lab/base.squashfs kernel; cd kernel;";
    let expected = stage.sh(&format!("{script} {digests}; cd ..; umount -l kernel"));
    assert!(expected.lines().count() > 1000);
    assert!(expected == found, "the files differ");
}

#[test]
fn terminated_server_unmounts() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in BOTH_USERS {
        let mnt = MountPoint::new(&stage, who);
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mnt.mount(&["--rw"], &[&base]).ok();
            mnt.sh("echo new > mnt/etc/new").ok();
            let servers = mnt.servers();
            assert_eq!(servers.len(), 1, "{servers:?}");
            kill(servers[0], signal).unwrap();
            mnt.assert_unmounted();
        }
    }
}

#[test]
fn mount_of_a_killed_server_can_be_unmounted() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in BOTH_USERS {
        let mnt = MountPoint::new(&stage, who);
        mnt.mount(&[], &[&base]).ok();
        kill(mnt.servers()[0], Signal::SIGKILL).unwrap();
        eventually("the server has ended", || mnt.servers().is_empty());
        mnt.end();
    }
}

#[test]
fn foreground_mount_serves_until_it_ends() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in BOTH_USERS {
        let mnt = MountPoint::new(&stage, who);
        let mut command = stage.overcoat(who);
        let mut child = command.arg("mount").arg("-f").arg(&base).arg(&mnt.dir).spawn().unwrap();
        let device = fs::metadata(stage.out(who)).unwrap().dev();
        eventually("the root is mounted", || {
            let found = mnt.sh("stat -c %d mnt").text();
            found.trim().parse::<u64>().is_ok_and(|found| found != device)
        });
        assert_eq!(mnt.servers(), [Pid::from_raw(child.id() as i32)]);
        match who {
            Who::Root => mnt.umount().ok().code,
            Who::Unprivileged | Who::SingleId => {
                kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
                0
            }
        };
        let status = child.wait().unwrap();
        assert!(matches!(status.code(), Some(0 | 130)), "{status}");
        mnt.assert_unmounted();
    }
}

#[test]
fn errors_name_the_path_and_leave_nothing() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let text = stage.write("text.squashfs", "This is no image.\n");
    for who in BOTH_USERS {
        let mnt = MountPoint::new(&stage, who);
        let missing = stage.out(who).join("missing");
        mnt.mount_at(&[], &[&base], &missing).code(2).stderr_has(&["missing", "No such file"]);
        mnt.mount(&[], &[&missing]).code(2).stderr_has(&["missing", "No such file"]);
        mnt.mount(&[], &[&text]).code(2).stderr_has(&["text.squashfs", "not a squashfs image"]);
        mnt.mount_at(&[], &[&base], &base).code(2).stderr_has(&["torture.squashfs"]);
        let limited = ["--upper-size", "1G"];
        mnt.mount(&limited, &[&base]).code(2).stderr_has(&["--upper-size", "--rw"]);
        mnt.umount().code(2).stderr_has(&["mnt"]);
        let seal = |output: &str| mnt.seal(&["-o", output]).code(2);
        seal("out.cpio").stderr_has(&["mnt", "overcoat mount"]);
        mnt.assert_unmounted();
        mnt.mount(&["--rw"], &[&base]).ok();
        let part = finish(stage.overcoat(who).args(["seal", "mnt/etc", "-o", "x.cpio"]));
        part.code(2).stderr_has(&[
            "mnt/etc: is inside a mounted root",
            &format!("give {}", mnt.dir.display()),
        ]);
        seal("out.unknown").stderr_has(&["--format"]);
        seal("mnt/out.cpio").stderr_has(&["mnt/out.cpio", "the mount itself"]);
        seal("missing/out.cpio").stderr_has(&["missing/out.", "No such file"]);
        mnt.end();
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
fn deleted_files_free_memory() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let who = Who::Unprivileged;
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw", "--upper-size", "1G"], &[&base]).ok();
    let server = mnt.servers()[0];
    let before = resident(server);
    let fill = "for n in 1 2 3 4; do head -c 50M /dev/urandom >mnt/$n; done";
    // All files but the last one in the heap; one large file; a truncated file.
    for free in
        ["rm mnt/1 mnt/2 mnt/3", "cat mnt/? >mnt/all; rm mnt/?; rm mnt/all", ": >mnt/1; rm mnt/?"]
    {
        mnt.sh(fill).ok();
        assert!(resident(server) > before + 190, "{} MiB", resident(server));
        mnt.sh(free).ok();
        eventually("the memory is freed", || resident(server) < before + 80);
        mnt.sh("rm -f mnt/?").ok();
    }
    mnt.umount().ok();
}

#[test]
fn second_mount_on_a_directory_is_rejected() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    for who in BOTH_USERS {
        let mnt = MountPoint::new(&stage, who);
        mnt.mount(&[], &[&base]).ok();
        mnt.mount(&[], &[&base]).code(2).stderr_has(&["mounted there already"]);
        mnt.umount().ok();
    }
}

/// An archive of another program, without an entry for its root.
#[test]
fn overlay_without_a_root_entry_keeps_the_root_of_the_base() {
    let stage = Stage::new();
    let who = Who::Root;
    let base = folder_base(&stage);
    stage.sh("chmod 711 base; chown 3:4 base; touch -d @1000000000 base
         mkdir over; cd over; echo new > new; echo new | cpio --quiet -o -H newc > ../over.cpio");
    let mnt = MountPoint::new(&stage, who);
    mnt.mount(&["--rw"], &[&base, &stage.path("over.cpio")]).ok();
    let found = fs::metadata(&mnt.dir).unwrap();
    let found = (found.mode(), found.uid(), found.gid(), found.mtime());
    assert_eq!(found, (0o40711, 3, 4, 1_000_000_000));
    assert_eq!(fs::read_to_string(mnt.dir.join("new")).unwrap(), "new\n");
    // So does an overlay that is sealed on top of both.
    mnt.sh("echo > mnt/newer").ok();
    mnt.seal(&["-o", "top.cpio"]).ok();
    mnt.umount().ok();
    let listed = stage.sh("cpio --quiet -itvn < root/top.cpio | awk '{ print $1, $3, $4, $NF }'");
    assert_eq!(listed.lines().next(), Some("drwx--x--x 3 4 ."), "{listed}");
}

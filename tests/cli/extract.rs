//! `extract`, which writes entries of images to a folder or an archive.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::image_fixture::{SMALL, archives, layers, overcoat};
use crate::snapshot::{self, Transcript, program};
use crate::support::newc::Archive;
use crate::support::processes::eventually;
use crate::support::stage::{BOTH_USERS, Stage, Who};

#[test]
fn extraction_writes_only_the_selected_entries() {
    let stage = Stage::new();
    let script = format!(
        "{SMALL}
        mkfifo base/fifo; mknod base/null c 1 3; mkdir base/locked; echo x >base/locked/file
        chmod 0555 base/locked; truncate -s 200M base/sparse; ln -s ../../../../../tmp base/out"
    );
    let (base, over) = layers(&stage, &script);
    for who in BOTH_USERS {
        let run = |rest: &[&str]| overcoat(&stage, who, "extract", &[&base, &over], rest);
        run(&["-C", "all"]).ok();
        let out = stage.out(who);
        let all = out.join("all");
        let tool = fs::metadata(all.join("usr/bin/tool")).unwrap();
        assert_eq!(tool.ino(), fs::metadata(all.join("usr/bin/same")).unwrap().ino());
        let root = who == Who::Root;
        assert_eq!(tool.mode() & 0o7777, if root { 0o4755 } else { 0o755 });
        let motd = fs::metadata(all.join("etc/motd")).unwrap();
        assert_eq!((motd.mtime(), motd.uid() == 1000), (1_600_000_000, root));
        assert_eq!(fs::exists(all.join("null")).unwrap(), root);
        assert!(!fs::exists(all.join("etc/issue")).unwrap());
        let sparse = fs::metadata(all.join("sparse")).unwrap();
        assert!(sparse.size() == 200 << 20 && sparse.blocks() < 1000, "{}", sparse.blocks());
        assert_eq!(fs::metadata(all.join("locked")).unwrap().mode() & 0o7777, 0o555);

        // Existing files are kept without --force; with it, other files are still kept.
        fs::write(all.join("etc/motd"), "mine").unwrap();
        fs::write(all.join("etc/mine"), "mine").unwrap();
        run(&["-C", "all", ":etc/motd", ":locked"])
            .code(2)
            .stderr_has(&["already exists", "--force"]);
        assert_eq!(fs::read(all.join("etc/motd")).unwrap(), b"mine");
        if root {
            run(&["-C", "all", "--force", ":etc", ":locked"]).ok();
            assert_eq!(fs::read(all.join("etc/motd")).unwrap(), b"one\n2\nthree\n");
        }
        assert_eq!(fs::read(all.join("etc/mine")).unwrap(), b"mine");
        // Into an existing folder, including directories without write permission.
        fs::create_dir(out.join("there")).unwrap();
        stage.give(&out.join("there"), who);
        run(&["-C", "there", ":locked", ":etc/motd"]).ok();
        assert_eq!(fs::read(out.join("there/locked/file")).unwrap(), b"x\n");
        assert_eq!(fs::metadata(out.join("there/locked")).unwrap().mode() & 0o7777, 0o555);

        // Existing links are not followed.
        let outside = out.join("outside");
        fs::create_dir_all(&outside).unwrap();
        stage.give(&outside, who);
        fs::create_dir(out.join("trap")).unwrap();
        stage.give(&out.join("trap"), who);
        symlink(&outside, out.join("trap/etc")).unwrap();
        run(&["-C", "trap", "--force", ":etc/motd"]).code(2).stderr_has(&["cannot be overwritten"]);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(fs::read_dir(out.join("trap")).unwrap().count(), 1, "nothing is left");
        run(&["-C", "new", ":none"]).code(1);
        assert!(!fs::exists(out.join("new")).unwrap());
    }
}

#[test]
fn interrupted_extraction_leaves_a_complete_folder_or_nothing() {
    let stage = Stage::new();
    let debian = stage.debian();
    for who in BOTH_USERS {
        let mut command = stage.overcoat(who);
        command.args(["extract".as_ref(), debian.as_os_str(), "-C".as_ref(), "out".as_ref()]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        eventually("the extraction begins", || !stage.files(who).is_empty());
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        let status = child.wait().unwrap();
        let left = stage.files(who);
        match status.code() {
            // The extraction completed before the signal arrived.
            Some(0) => assert!(left.len() == 1 && left[0].ends_with("out"), "{left:?}"),
            code => assert!(code == Some(130) && left.is_empty(), "{code:?} {left:?}"),
        }
    }
}

#[test]
fn failed_extraction_leaves_no_folder() {
    let stage = Stage::new();
    let script = "echo a >base/a; seq 1000000 >base/b; echo z >base/z";
    let (base, _) = layers(&stage, script);
    let mut image = fs::read(&base).unwrap();
    let middle = image.len() / 2;
    image[middle..middle + 1000].fill(0xa5);
    let damaged = stage.write("damaged.squashfs", &image);
    for who in BOTH_USERS {
        let run =
            |images: &Path, to: &str| overcoat(&stage, who, "extract", &[images], &["-C", to]);
        run(&damaged, "out").code(2).stderr_has(&["/b: ", "damaged"]);
        assert!(stage.files(who).is_empty(), "{:?}", stage.files(who));
    }
}

/// An existing folder is filled name by name, and nothing is moved unless everything can be.
#[test]
fn folder_that_cannot_be_filled_is_unchanged() {
    let stage = Stage::new();
    let script = "mkdir -p base/a base/b base/c/new; echo new >base/a/file; echo new >base/b/file
                  chmod 2755 base/c/new; chmod 1777 base; chown 1000:1000 base";
    let (base, _) = layers(&stage, script);
    for who in BOTH_USERS {
        let run = |rest: &[&str]| overcoat(&stage, who, "extract", &[&base], rest);
        let out = stage.out(who);
        let make = |folder: &str| {
            let there = out.join(folder);
            for dir in ["", "a", "b", "c"] {
                fs::create_dir(there.join(dir)).unwrap();
                stage.give(&there.join(dir), who);
            }
            there
        };
        let there = make("there");
        fs::write(there.join("a/file"), "old").unwrap();
        let mode = |path: &str| fs::metadata(there.join(path)).unwrap().mode() & 0o7777;
        // A directory of another user: files that would have been overwritten are kept.
        if who != Who::Root {
            std::os::unix::fs::chown(there.join("b"), Some(0), Some(0)).unwrap();
            run(&["-C", "there", "--force"]).code(2).stderr_has(&["there/b: Permission denied"]);
            assert_eq!(fs::read(there.join("a/file")).unwrap(), b"old");
            assert_eq!(fs::read_dir(&there).unwrap().count(), 3, "nothing is left");
            stage.give(&there.join("b"), who);
            // In a sticky directory such as /tmp, files of other users are kept.
            fs::write(there.join("b/file"), "root").unwrap();
            std::os::unix::fs::chown(there.join("b"), Some(0), Some(0)).unwrap();
            fs::set_permissions(there.join("b"), fs::Permissions::from_mode(0o1777)).unwrap();
            run(&["-C", "there", "--force"]).code(2).stderr_has(&["there/b/file: Operation not"]);
            assert_eq!(fs::read(there.join("a/file")).unwrap(), b"old");
            fs::remove_file(there.join("b/file")).unwrap();
            stage.give(&there.join("b"), who);
        }
        // The user's own read-only directory is filled and keeps its mode.
        fs::set_permissions(there.join("b"), fs::Permissions::from_mode(0o555)).unwrap();
        fs::remove_file(there.join("a/file")).unwrap();
        run(&["-C", "there"]).ok();
        assert_eq!(fs::read(there.join("b/file")).unwrap(), b"new\n");
        assert_eq!((mode(""), mode("b"), mode("c/new")), (0o755, 0o555, 0o2755));
        assert_eq!(fs::read_dir(&there).unwrap().count(), 3, "nothing is left");
        // A new folder gets the attributes of the root.
        run(&["-C", "new"]).ok();
        let new = fs::metadata(out.join("new")).unwrap();
        assert_eq!((new.mode() & 0o7777, new.uid() == 1000), (0o1777, who == Who::Root));
        run(&["-C", "none/new"]).code(2).stderr_has(&["cannot write none: No such file"]);
    }
    // A file system mounted in the folder prevents moving everything at once.
    let there = stage.out(Who::Root).join("mounted");
    for dir in ["a", "b", "c"] {
        fs::create_dir_all(there.join(dir)).unwrap();
    }
    fs::write(there.join("a/file"), "old").unwrap();
    let run = |rest: &[&str]| {
        let rest = [&["-C", "mounted", "--force"], rest].concat();
        overcoat(&stage, Who::Root, "extract", &[&base], &rest)
    };
    // So does a bind mount of the same file system, even on a file.
    stage.sh("touch root/file root/mounted/b/file; mkdir root/dir");
    for mount in ["mount -t tmpfs t b", "mount --bind ../dir b", "mount --bind ../file b/file"] {
        stage.sh(&format!("cd root/mounted; {mount}"));
        let at = if mount.ends_with("file") { "mounted/b/file" } else { "mounted/b" };
        run(&[]).code(2).stderr_has(&[&format!("{at} is on another file system")]);
        assert_eq!(fs::read(there.join("a/file")).unwrap(), b"old");
        assert_eq!(fs::read_dir(&there).unwrap().count(), 3, "nothing is left");
        run(&[":c"]).ok();
        fs::remove_dir_all(there.join("c/new")).unwrap();
        stage.sh(&format!("umount root/{at}"));
    }
    run(&[]).ok();
    // A folder cannot be extracted into itself.
    let folder = base.parent().unwrap().join("base");
    for to in [folder.clone(), folder.join("a"), folder.join("a/new")] {
        let to = to.to_str().unwrap();
        overcoat(&stage, Who::Root, "extract", &[&folder], &["-C", to])
            .code(2)
            .stderr_has(&["is inside the layer"]);
    }
    assert!(!fs::exists(folder.join("a/new")).unwrap());
}

#[test]
fn extracted_archives_are_read_by_tar_and_cpio() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    for who in BOTH_USERS {
        let run = |rest: &[&str]| overcoat(&stage, who, "extract", &[&base, &over], rest);
        let tar = run(&["-o", "-"]).ok().stdout;
        let archive = stage.out(who).join("all.tar");
        fs::write(&archive, &tar).unwrap();
        let list = stage.sh(&format!("tar tvf {}", archive.display()));
        assert!(list.contains("etc/motd") && !list.contains("issue"), "{list}");
        assert!(
            list.contains("usr/bin/tool link to ./usr/bin/same")
                || list.contains("link to usr/bin/same"),
            "{list}"
        );
        run(&["-o", "some.cpio.gz", ":bin/tool"]).ok();
        let some = stage.out(who).join("some.cpio.gz");
        let names = stage.sh(&format!("zcat {} | cpio -t --quiet", some.display()));
        assert_eq!(names, ".\nusr\nusr/bin\nusr/bin/tool\n");
    }
}

#[test]
fn existing_files_are_kept_and_named() {
    let folder = archives();
    let mut transcript = Transcript::new(folder.path());
    for options in [":etc -C out", ":etc/motd -C out", ":etc/motd -C out --force", ":none -C out"] {
        transcript.run(program(), &format!("extract base.cpio over.cpio {options}"));
    }
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("extract_keeps_existing_files", transcript.text());
}

/// An archive of files cannot hold the deletions of an overlay whose base is missing.
#[test]
fn overlay_without_its_base_does_not_lose_deletions_silently() {
    let folder = archives();
    let write = |name: &str, archive: &Archive| {
        fs::write(folder.path().join(name), archive.bytes()).unwrap();
    };
    let mut plain = Archive::new();
    plain.file("etc/new", "new\n");
    write("plain.cpio", &plain);
    let mut replaced = Archive::new();
    replaced.file("etc/new", "new\n");
    replaced.file("etc/.wh..wh..opq", "");
    write("replaced.cpio", &replaced);
    let mut renewed = Archive::new();
    renewed.file("usr/share/old/new", "new\n");
    write("renewed.cpio", &renewed);
    let mut transcript = Transcript::new(folder.path());
    for line in [
        "extract over.cpio -o over.cpio.gz",
        "extract over.cpio -o over.tar",
        // No deletion is selected.
        "extract over.cpio :etc/motd -o motd.tar",
        "extract over.cpio :etc -o etc.tar",
        "extract over.cpio -C out",
        "extract over.cpio -C out --force --json",
        "extract replaced.cpio -o -",
        // A directory above a whiteout replaces the directory of the base.
        "extract over.cpio renewed.cpio -o renewed.tar",
        // An overlay without deletions below one with deletions.
        "extract plain.cpio over.cpio -o both.tar",
        "extract plain.cpio -o plain.tar",
        "extract base.cpio over.cpio -o root.cpio",
    ] {
        transcript.run(program(), line);
    }
    let _settings = snapshot::bind("");
    insta::assert_snapshot!("extract_reports_lost_deletions", transcript.text());
    let exists = |name: &str| folder.path().join(name).exists();
    assert!(!exists("over.cpio.gz") && !exists("over.tar") && !exists("both.tar"));
}

/// The base applies deletions, even those of paths that it does not have. An overlay in another
/// format than cpio is recognised by its own deletions or by its manifest.
#[test]
fn deletions_are_lost_only_without_a_base() {
    let stage = Stage::new();
    let script = format!(
        "{SMALL}; mknod over/etc/none c 0 0; mkdir upper; touch upper/a; mksquashfs over over.squashfs \
         -quiet -no-progress >/dev/null; mksquashfs upper upper.squashfs -quiet -no-progress >/dev/null"
    );
    let (base, over) = layers(&stage, &script);
    let run =
        |images: &[&Path]| overcoat(&stage, Who::Root, "extract", images, &["-o", "out.cpio"]);
    run(&[&base, &over]).ok();
    run(&[&base]).ok();
    let squashfs = stage.path("layers/over.squashfs");
    run(&[&squashfs]).code(2).stderr_has(&["2 deletions (/etc/issue, /etc/none)"]);
    run(&[&base, &squashfs]).ok();
    let upper = stage.path("layers/upper.squashfs");
    run(&[&upper, &over]).ok();
    stage.write(
        "layers/upper.squashfs.manifest.json",
        r#"{"layers": [{"name": "base.squashfs", "sha256": "00"}]}"#,
    );
    run(&[&upper, &over]).code(2).stderr_has(&["upper.squashfs is an overlay"]);
}

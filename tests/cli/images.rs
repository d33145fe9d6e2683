//! Commands that read images without mounting them: `ls`, `tree`, `cat`, `stat`, `du`, `extract`,
//! `diff`.
//!
//! [`differential`](crate::differential) compares their results for random layers with the kernel.

use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::processes::eventually;
use crate::support::stage::{EVERYBODY, Finished, Stage, Who, finish};

/// Makes a base and an overlay from the folders `base` and `over` in `layers`, which `script`
/// fills.
fn layers(stage: &Stage, script: &str) -> (PathBuf, PathBuf) {
    stage.sh(&format!(
        "mkdir -p layers/base layers/over; chmod 755 layers; cd layers; {script}
         mksquashfs base base.squashfs -quiet -no-progress >/dev/null
         cd over; find . | LC_ALL=C sort | cpio --quiet -H newc -o | gzip >../over.cpio.gz"
    ));
    (stage.path("layers/base.squashfs"), stage.path("layers/over.cpio.gz"))
}

const SMALL: &str = "
    mkdir -p base/etc base/usr/bin base/usr/share/doc/pkg over/etc
    printf 'root:x:0:0::/root:/bin/sh\\nalice:x:1000:1000::/:/bin/sh\\n' >base/etc/passwd
    printf 'root:x:0:\\nstaff:x:1000:\\n' >base/etc/group
    printf 'one\\ntwo\\nthree\\n' >base/etc/motd; echo gone >base/etc/issue
    echo doc >base/usr/share/doc/pkg/copyright; ln -s usr/bin base/bin
    printf tool >base/usr/bin/tool; chmod 4755 base/usr/bin/tool; ln base/usr/bin/tool base/usr/bin/same
    printf 'one\\n2\\nthree\\n' >over/etc/motd; mknod over/etc/issue c 0 0; chown 1000:1000 over/etc/motd
    touch -d @1600000000 base/etc/motd over/etc/motd";

fn overcoat(stage: &Stage, who: Who, command: &str, images: &[&Path], rest: &[&str]) -> Finished {
    finish(stage.overcoat(who).arg(command).args(images).args(rest))
}

#[test]
fn ls_lists_names_owners_and_layers() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    for who in EVERYBODY {
        let ls = |rest: &[&str]| overcoat(&stage, who, "ls", &[&base, &over], rest);
        assert_eq!(ls(&[]).ok().text(), "bin\netc\nusr\n");
        assert_eq!(ls(&[":/bin"]).ok().text(), "same\ntool\n", "through the link");
        assert_eq!(ls(&["-d", ":bin"]).ok().text(), "/bin\n");
        assert_eq!(ls(&["-R", ":usr/share"]).ok().text(), "doc\ndoc/pkg\ndoc/pkg/copyright\n");
        let long = ls(&["-l", ":etc/motd"]).ok().text();
        let motd = "-rw-r--r-- alice staff 12 2020-09-13 12:26 over.cpio.gz /etc/motd\n";
        assert_eq!(long, motd);
        let layers = ls(&["--layers", ":etc"]).ok().text();
        assert_eq!(
            layers.lines().collect::<Vec<_>>(),
            [
                "base.squashfs group",
                "over.cpio.gz  issue  (deleted: file, 5 bytes in base.squashfs)",
                "over.cpio.gz  motd  (hides file, 14 bytes in base.squashfs)",
                "base.squashfs passwd",
            ]
        );
        let json: Value = serde_json::from_slice(&ls(&["-R", "--json"]).ok().stdout).unwrap();
        assert_eq!(json["schema"], 1);
        let entries = json["entries"].as_array().unwrap();
        let motd = entries.iter().find(|entry| entry["path"] == "etc/motd").unwrap();
        assert_eq!((&motd["layer"], &motd["hides"][0]["size"]), (&1.into(), &14.into()));
        assert!(entries.iter().any(|e| e["path"] == "etc/issue" && e["deleted"] == true));
    }
}

#[test]
fn ls_agrees_with_find_on_a_mounted_debian_base() {
    let stage = Stage::new();
    let debian = stage.debian();
    let found = stage.sh(&format!(
        "mkdir m; mount -o loop,ro {} m; cd m
         find . -mindepth 1 -printf '%P %m %U %G %y %s %T@ %l\\n' | LC_ALL=C sort",
        debian.display()
    ));
    let listed = overcoat(&stage, Who::Root, "ls", &[&debian], &["-R", "--json"]).ok();
    let json: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().replace("\\x5c", "\\");
    let mut lines: Vec<String> = json["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let (kind, target) = (entry["type"].as_str().unwrap(), text(&entry["target"]));
            let letter = match kind {
                "file" => "f",
                "directory" => "d",
                "symlink" => "l",
                "char-device" => "c",
                "block-device" => "b",
                "fifo" => "p",
                _ => "s",
            };
            format!(
                "{} {} {} {} {letter} {} {} {target}",
                text(&entry["path"]),
                entry["mode"].as_str().unwrap().trim_start_matches('0'),
                entry["uid"],
                entry["gid"],
                entry["size"].as_u64().map_or("-".to_owned(), |size| size.to_string()),
                entry["mtime"],
            )
        })
        .collect();
    // Only files have a size, and times are in whole seconds.
    let mut expected: Vec<String> = found
        .lines()
        .map(|line| {
            let mut words: Vec<&str> = line.split(' ').collect();
            let at = words.len() - 4;
            if words[at] != "f" {
                words[at + 1] = "-";
            }
            words[at + 2] = words[at + 2].split('.').next().unwrap();
            words.join(" ")
        })
        .collect();
    lines.sort();
    expected.sort();
    assert!(expected.len() > 5000);
    let different = expected.iter().zip(&lines).find(|(a, b)| a != b);
    assert_eq!((different, expected.len()), (None, lines.len()));
}

#[test]
fn interrupted_extraction_leaves_a_complete_folder_or_nothing() {
    let stage = Stage::new();
    let debian = stage.debian();
    for who in EVERYBODY {
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
fn images_and_paths_inside_are_distinguished() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let ls = |images: &[&Path], rest: &[&str]| overcoat(&stage, Who::Root, "ls", images, rest);
    ls(&[&base, Path::new("/etc")], &[])
        .code(2)
        .says(&["/etc: is a directory of both this machine", ":/etc"]);
    ls(&[&base, Path::new("/./etc")], &[]).ok();
    ls(&[&base, Path::new("etc/motd")], &[]).code(2).says(&["for a path inside, write :etc/motd"]);
    ls(&[&base, Path::new("/etc/passwd")], &[]).code(2).says(&["for a path inside"]);
    ls(&[], &[":/etc"]).code(2).says(&["no image given"]);
    ls(&[&base], &[":none", ":/bin"]).code(1).says(&["/none: no such file or directory"]);
    let diff = |images: &[&Path], rest: &[&str]| overcoat(&stage, Who::Root, "diff", images, rest);
    diff(&[&base], &[]).code(2).says(&["nothing to compare with"]);
    let folder = stage.path("layers/base");
    diff(&[&base, &folder], &[]).code(2).says(&["--from", "--to"]);
    diff(&[&base, &over], &[":none"]).code(2).says(&["/none: no such"]);
}

#[test]
fn tree_draws_trees() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let tree =
        |rest: &[&str]| overcoat(&stage, Who::Root, "tree", &[&base, &over], rest).ok().text();
    assert_eq!(
        tree(&["--layers", ":etc"]),
        "/etc\n\
         |-- group  [base.squashfs]\n\
         |-- issue  [over.cpio.gz]  (deleted: file, 5 bytes in base.squashfs)\n\
         |-- motd  [over.cpio.gz]  (hides file, 14 bytes in base.squashfs)\n\
         `-- passwd  [base.squashfs]\n\n1 directory, 3 files\n"
    );
    assert_eq!(tree(&["-L1", "-d"]), "/\n|-- etc\n`-- usr\n\n3 directories\n");
}

#[test]
fn cat_prints_files_unchanged_and_accepts_a_closed_pipe() {
    let stage = Stage::new();
    let script = "head -c 30000000 /dev/urandom >base/big; echo first >base/first; mkdir base/dir";
    let (base, _) = layers(&stage, script);
    let big = stage.path("layers/base/big");
    for who in EVERYBODY {
        let cat = |rest: &[&str]| overcoat(&stage, who, "cat", &[&base], rest);
        let both = cat(&[":first", ":big"]).ok().stdout;
        assert!(both == [&b"first\n"[..], &fs::read(&big).unwrap()].concat());
        assert_eq!(cat(&[":none", ":first"]).code(1).text(), "first\n");
        cat(&[":dir"]).code(2).says(&["/dir: cannot print a directory"]);
        let mut command = stage.overcoat(who);
        let mut child = command
            .args(["cat".as_ref(), base.as_os_str(), ":big".as_ref()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 4096];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
fn stat_shows_all_details() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let stat = |rest: &[&str]| overcoat(&stage, Who::Root, "stat", &[&base, &over], rest);
    let text = stat(&[":etc/motd", ":usr/bin/tool"]).ok().text();
    let sum = stage.sh("sha256sum layers/over/etc/motd | cut -d' ' -f1");
    for line in [
        "  owner     1000 alice",
        &format!("  sha256    {}", sum.trim()),
        "  layer     over.cpio.gz: file, 12 bytes, 0644 alice:staff",
        "  layer     base.squashfs: file, 14 bytes, 0644 root:root, hidden",
        "  mode      4755 -rwsr-xr-x",
        "  link      /usr/bin/same",
    ] {
        assert!(text.contains(line), "no {line:?}:\n{text}");
    }
    let json: Value = serde_json::from_slice(&stat(&["--json", ":etc/motd"]).ok().stdout).unwrap();
    assert_eq!(json["objects"][0]["sha256"], sum.trim());
    assert_eq!(json["objects"][0]["hides"], serde_json::json!([0]));
    stat(&[":etc/issue"]).code(1).says(&["/etc/issue: no such file", ", but deleted by "]);
    // A dangling link exists.
    stage.sh("ln -s ../run/tab layers/base/etc/mtab");
    let folder = base.parent().unwrap().join("base");
    let of = |command: &str, path: &str| overcoat(&stage, Who::Root, command, &[&folder], &[path]);
    assert_eq!(of("ls", ":/etc/mtab").ok().text(), "/etc/mtab\n");
    of("cat", ":/etc/mtab").code(1).says(&["/etc/mtab: broken symbolic link to ../run/tab"]);
    let slash = of("ls", ":/etc/mtab/").code(1).says(&["/etc/mtab: no such file or directory"]);
    assert!(!slash.stderr.contains("hidden"), "{}", slash.stderr);
}

#[test]
fn du_agrees_with_du_and_a_tmpfs() {
    let stage = Stage::new();
    let debian = stage.debian();
    stage.sh(&format!("mkdir m; mount -o loop,ro {} m", debian.display()));
    let expected = stage.sh("du -s --apparent-size -B1 m/usr/share/doc | cut -f1; find m/usr/share/doc -type d -printf '%s\\n'");
    let mut numbers = expected.lines().map(|line| line.parse::<u64>().unwrap());
    // Directories count as empty.
    let expected = numbers.next().unwrap() - numbers.sum::<u64>();
    let links = stage.sh("find m/usr/share/doc -type l -printf '%s\\n'");
    let expected = expected - links.lines().map(|line| line.parse::<u64>().unwrap()).sum::<u64>();
    let du = |rest: &[&str]| overcoat(&stage, Who::Root, "du", &[&debian], rest).ok();
    let json: Value =
        serde_json::from_slice(&du(&["--json", "-L0", ":usr/share/doc"]).stdout).unwrap();
    assert_eq!(json["directories"][0]["bytes"], expected);
    let packages: Value = serde_json::from_slice(&du(&["--json", "--packages"]).stdout).unwrap();
    let libc = packages["packages"].as_array().unwrap().iter().find(|p| p["package"] == "libc6");
    assert!(libc.unwrap()["bytes"].as_u64().unwrap() > 1_000_000);

    // An overlay in memory uses the predicted pages.
    let script = "for n in $(seq 300); do head -c $((n * 50)) /dev/zero >over/file$n; done
                  mkdir over/dir; ln over/file1 over/dir/link";
    let (base, over) = layers(&stage, script);
    let report = overcoat(&stage, Who::Root, "du", &[&base, &over], &["--ram", "--json"]).ok();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    stage.sh("mkdir t; mount -t tmpfs t t; cd t; zcat ../layers/over.cpio.gz | cpio -idm --quiet");
    let pages = stage.sh("df -B1 --output=used t | tail -1; stat -f -c '%f %d' t >/dev/null");
    assert_eq!(report["memory"][1]["pages"], pages.trim().parse::<u64>().unwrap());
}

#[test]
fn extraction_writes_only_the_selected_entries() {
    let stage = Stage::new();
    let script = format!(
        "{SMALL}
        mkfifo base/fifo; mknod base/null c 1 3; mkdir base/locked; echo x >base/locked/file
        chmod 0555 base/locked; truncate -s 200M base/sparse; ln -s ../../../../../tmp base/out"
    );
    let (base, over) = layers(&stage, &script);
    for who in EVERYBODY {
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
        run(&["-C", "all", ":etc/motd", ":locked"]).code(2).says(&["already exists", "--force"]);
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
        run(&["-C", "trap", "--force", ":etc/motd"]).code(2).says(&["cannot be overwritten"]);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(fs::read_dir(out.join("trap")).unwrap().count(), 1, "nothing is left");
        run(&["-C", "new", ":none"]).code(1);
        assert!(!fs::exists(out.join("new")).unwrap());
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
    for who in EVERYBODY {
        let run =
            |images: &Path, to: &str| overcoat(&stage, who, "extract", &[images], &["-C", to]);
        run(&damaged, "out").code(2).says(&["/b: ", "damaged"]);
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
    for who in EVERYBODY {
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
            run(&["-C", "there", "--force"]).code(2).says(&["there/b: Permission denied"]);
            assert_eq!(fs::read(there.join("a/file")).unwrap(), b"old");
            assert_eq!(fs::read_dir(&there).unwrap().count(), 3, "nothing is left");
            stage.give(&there.join("b"), who);
            // In a sticky directory such as /tmp, files of other users are kept.
            fs::write(there.join("b/file"), "root").unwrap();
            std::os::unix::fs::chown(there.join("b"), Some(0), Some(0)).unwrap();
            fs::set_permissions(there.join("b"), fs::Permissions::from_mode(0o1777)).unwrap();
            run(&["-C", "there", "--force"]).code(2).says(&["there/b/file: Operation not"]);
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
        run(&["-C", "none/new"]).code(2).says(&["cannot write none: No such file"]);
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
        run(&[]).code(2).says(&[&format!("{at} is on another file system")]);
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
            .says(&["is inside the layer"]);
    }
    assert!(!fs::exists(folder.join("a/new")).unwrap());
}

/// An image of a few kilobytes can have infinitely many paths if directories contain themselves or
/// have several parents. The test copies the inode of one directory entry to another.
#[test]
fn directories_with_several_parents_are_reported_as_damage() {
    let stage = Stage::new();
    stage.sh("mkdir -p empty knot/outer/inner knot/second
         mksquashfs knot knot.squashfs -noI -noF -quiet -no-progress >/dev/null");
    let sound = fs::read(stage.path("knot.squashfs")).unwrap();
    // After the inode number: the type, the length of the name minus one, and the name.
    let entry = |name: &str| {
        let entry = [&[1, 0, name.len() as u8 - 1, 0][..], name.as_bytes()].concat();
        sound.windows(entry.len()).position(|bytes| bytes == entry).unwrap()
    };
    for (name, like) in [("inner", "outer"), ("second", "outer")] {
        let mut image = sound.clone();
        let (to, from) = (entry(name) - 4, entry(like) - 4);
        image.copy_within(from..from + 2, to);
        let image = stage.write("knotted.squashfs", &image);
        let cases: [(&str, &[&str]); 8] = [
            ("check", &[]),
            ("ls", &["-R"]),
            ("ls", &["-R", "--layers"]),
            ("ls", &["-R", "--json"]),
            ("tree", &[]),
            ("tree", &["--layers"]),
            ("du", &[]),
            ("extract", &["-C", "out"]),
        ];
        for (command, rest) in cases {
            // `check` reports damage as a finding; the other commands fail.
            let code = if command == "check" { 1 } else { 2 };
            overcoat(&stage, Who::Root, command, &[&image], rest)
                .code(code)
                .says(&["damaged", "is its own ancestor, or has two parents"]);
        }
        let empty = stage.path("empty");
        overcoat(
            &stage,
            Who::Root,
            "diff",
            &[],
            &["--from", empty.to_str().unwrap(), "--to", image.to_str().unwrap()],
        )
        .code(2)
        .says(&["is its own ancestor, or has two parents"]);
    }
}

#[test]
fn images_may_have_any_name_but_must_be_regular_files() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let strange = |from: &Path, end: &str| {
        let name = [b"n\xff", end.as_bytes()].concat();
        let to = stage.path(std::ffi::OsStr::from_bytes(&name));
        fs::copy(from, &to).unwrap();
        to
    };
    let (base_too, over_too) = (strange(&base, ".squashfs"), strange(&over, ".cpio.gz"));
    let run = |command: &str, images: &[&Path], rest: &[&str]| {
        overcoat(&stage, Who::Root, command, images, rest)
    };
    let output = run("du", &[&base_too, &over_too], &["--ram"]).ok().text();
    assert!(output.lines().next().unwrap().ends_with(".squashfs: image file"), "{output}");
    // An archive is always unpacked.
    let output = run("du", &[&over], &["--ram"]).ok().text();
    assert!(output.starts_with("    ") && output.contains("over.cpio.gz: unpacked"), "{output}");
    let before = fs::read(&over_too).unwrap();
    finish(stage.overcoat(Who::Root).arg("extract").arg(&over_too).arg("-o").arg(&over_too))
        .code(2)
        .says(&["cannot overwrite a layer of the image itself"]);
    assert!(fs::read(&over_too).unwrap() == before);
    // Opening this pipe would block, because it has no writer.
    stage.sh("mkfifo pipe");
    let pipe = stage.path("pipe");
    run("ls", &[&pipe], &[]).code(2).says(&["not a regular file"]);
    run("diff", &[&base, &pipe], &[]).code(2).says(&["not a regular file"]);
}

#[test]
fn links_are_followed_where_required_and_may_dangle() {
    let stage = Stage::new();
    let script = format!(
        "{SMALL}; mkdir -p over/var/lib/dpkg; ln -s status over/var/lib/dpkg/status
         ln -s info over/var/lib/dpkg/info"
    );
    let (base, over) = layers(&stage, &script);
    let run = |command: &str, images: &[&Path], rest: &[&str]| {
        overcoat(&stage, Who::Root, command, images, rest)
    };
    let link = run("stat", &[&base], &[":bin"]).ok().text();
    assert!(link.starts_with("/bin\n  type      symbolic link\n"), "{link}");
    let dir = run("stat", &[&base], &[":/bin/"]).ok().text();
    assert!(dir.starts_with("/usr/bin\n  type      directory\n"), "{dir}");
    run("stat", &[&base, &over], &[":etc/motd"]).ok();
    run("du", &[&base, &over], &["--packages"]).ok();
    run("diff", &[&base, &over], &[]).code(1);
}

#[test]
fn extracted_archives_are_read_by_tar_and_cpio() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    for who in EVERYBODY {
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
fn diff_shows_changed_paths_and_aspects() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    for who in EVERYBODY {
        let diff = |images: &[&Path], rest: &[&str]| overcoat(&stage, who, "diff", images, rest);
        let output = diff(&[&base, &over], &[]).code(1).text();
        assert_eq!(
            output,
            "D /etc/issue  (file, 5 bytes)\n\
             C /etc/motd  (content 14 bytes -> 12 bytes; owner 0 -> 1000; group 0 -> 1000)\n\
             0 added, 1 changed, 1 deleted; 12 bytes new, 19 bytes gone\n"
        );
        let text = diff(&[&base, &over], &["-u", ":etc/motd"]).code(1).text();
        let patch = "--- a/etc/motd\n+++ b/etc/motd\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";
        assert!(text.contains(patch), "{text}");
        assert_eq!(diff(&[&base, &over], &[":usr"]).ok().text(), "no differences\n");
        let json: Value =
            serde_json::from_slice(&diff(&[&base, &over], &["--json"]).code(1).stdout).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["changes"][1]["what"], serde_json::json!(["content", "owner", "group"]));
        assert_eq!(json["totals"]["deleted"], 1);

        // Whole stacks give the same result as an overlay on its base.
        let paths = [base.to_str().unwrap(), over.to_str().unwrap()];
        let stacks = diff(&[], &["--from", paths[0], "--to", paths[0], paths[1]]).code(1).text();
        assert_eq!(stacks, output);
        diff(&[], &["--from", paths[0], "--to", paths[0]]).ok();
        diff(&[&base], &["--from", paths[1], "--to", paths[1]]).ok();
        let back = diff(&[], &["--from", paths[0], paths[1], "--to", paths[0]]).code(1).text();
        assert!(back.starts_with("A /etc/issue"), "{back}");
    }
}

#[test]
fn diff_names_changed_packages() {
    let stage = Stage::new();
    let package = |name: &str, version: &str| {
        format!(
            "Package: {name}\\nStatus: install ok installed\\nArchitecture: all\\nVersion: {version}\\n\\n"
        )
    };
    let old = [package("gone", "1"), package("kept", "1"), package("up", "1.9")].concat();
    let new = [package("kept", "1"), package("new", "2"), package("up", "1.10")].concat();
    let script = format!(
        "mkdir -p base/var/lib/dpkg over/var/lib/dpkg
         printf '{old}' >base/var/lib/dpkg/status; printf '{new}' >over/var/lib/dpkg/status"
    );
    let (base, over) = layers(&stage, &script);
    let output = overcoat(&stage, Who::Root, "diff", &[&base, &over], &[]).code(1).text();
    for line in [
        "package removed: gone 1\n",
        "package installed: new 2\n",
        "package upgraded: up 1.9 -> 1.10\n",
    ] {
        assert!(output.contains(line), "no {line:?}:\n{output}");
    }
}

#[test]
fn mount_and_fstab_support_the_file_system_type() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    // mount(8) searches helpers in /sbin only: link to the program under the helper's name.
    stage.sh(
        "mkdir sbin sbin/upper sbin/work mnt
         mount -t overlay o -o lowerdir=/usr/sbin,upperdir=$PWD/sbin/upper,workdir=$PWD/sbin/work /usr/sbin
         ln -sf $PWD/overcoat /sbin/mount.fuse.overcoat",
    );
    let strange = stage.path("layers/over,with:a \\name.cpio.gz");
    fs::rename(&over, &strange).unwrap();
    let folder = base.parent().unwrap().display();
    let spec = format!("{folder}/base.squashfs:{folder}/over,with\\:a \\\\name.cpio.gz");
    let mount = |words: &[&str]| finish(stage.command(Who::Root, "mount").args(words));
    let mnt = stage.path("mnt");
    let mnt = mnt.to_str().unwrap();
    mount(&["-t", "fuse.overcoat", &spec, mnt, "-o", "rw,nosuid,upper_size=64M"]).ok();
    assert_eq!(fs::read(Path::new(mnt).join("etc/motd")).unwrap(), b"one\n2\nthree\n");
    fs::write(Path::new(mnt).join("new"), "x").unwrap();
    assert!(stage.sh("findmnt -no OPTIONS mnt").contains("nosuid"));
    // A remount changes the options.
    mount(&["-o", "remount,ro", mnt]).ok();
    let refused = fs::write(Path::new(mnt).join("new"), "y").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert!(stage.sh("findmnt -no OPTIONS mnt").contains("nosuid"), "as it was");
    mount(&["-o", "remount,rw", mnt]).ok();
    fs::write(Path::new(mnt).join("new"), "y").unwrap();
    stage.sh("umount mnt");

    let line = spec.replace(' ', "\\040");
    stage.write(
        "fstab",
        format!("{line} {mnt} fuse.overcoat ro,nofail,_netdev,x-systemd.automount 0 0\n"),
    );
    stage.sh("mount -T fstab -a");
    assert!(fs::write(Path::new(mnt).join("new"), "x").is_err());
    // The second `mount -a` recognizes the mount.
    stage.sh("mount -T fstab -a; test $(grep -c fuse.overcoat /proc/self/mounts) = 1; umount mnt");

    mount(&["-t", "fuse.overcoat", &spec, mnt, "-o", "size=3"]).code(1).says(&["size=3"]);
    mount(&["-t", "fuse.overcoat", "/none", mnt]).code(32).says(&["cannot open /none"]);

    // Without the helper, that of libfuse finds the program by its name.
    stage.sh("rm /sbin/mount.fuse.overcoat; ln -sf $PWD/overcoat /usr/sbin/overcoat");
    mount(&["-t", "fuse.overcoat", &spec, mnt, "-o", "ro"]).ok();
    assert!(fs::write(Path::new(mnt).join("new"), "x").is_err());
    stage.sh("umount mnt");
}

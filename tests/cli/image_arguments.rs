//! Arguments of the commands that read images: image files, and paths inside them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::image_fixture::{SMALL, layers, overcoat};
use crate::support::stage::{Stage, Who, finish};

#[test]
fn images_and_paths_inside_are_distinguished() {
    let stage = Stage::new();
    let (base, over) = layers(&stage, SMALL);
    let ls = |images: &[&Path], rest: &[&str]| overcoat(&stage, Who::Root, "ls", images, rest);
    ls(&[&base, Path::new("/etc")], &[])
        .code(2)
        .stderr_has(&["/etc: is a directory of both this machine", ":/etc"]);
    ls(&[&base, Path::new("/./etc")], &[]).ok();
    ls(&[&base, Path::new("etc/motd")], &[])
        .code(2)
        .stderr_has(&["for a path in the images, write :etc/motd"]);
    ls(&[&base, Path::new("/etc/passwd")], &[]).code(2).stderr_has(&["for a path in the images"]);
    ls(&[], &[":/etc"]).code(2).stderr_has(&["no image given"]);
    ls(&[&base], &[":none", ":/bin"]).code(1).stderr_has(&["/none: no such file or directory"]);
    let diff = |images: &[&Path], rest: &[&str]| overcoat(&stage, Who::Root, "diff", images, rest);
    diff(&[&base], &[]).code(2).stderr_has(&["nothing to compare with"]);
    let folder = stage.path("layers/base");
    diff(&[&base, &folder], &[]).code(2).stderr_has(&["--from", "--to"]);
    diff(&[&base, &over], &[":none"]).code(2).stderr_has(&["/none: no such"]);
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
        .stderr_has(&["cannot overwrite a layer of the image itself"]);
    assert!(fs::read(&over_too).unwrap() == before);
    // Opening this pipe would block, because it has no writer.
    stage.sh("mkfifo pipe");
    let pipe = stage.path("pipe");
    run("ls", &[&pipe], &[]).code(2).stderr_has(&["not a regular file"]);
    run("diff", &[&base, &pipe], &[]).code(2).stderr_has(&["not a regular file"]);
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
                .stderr_has(&["damaged", "is its own ancestor, or has two parents"]);
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
        .stderr_has(&["is its own ancestor, or has two parents"]);
    }
}

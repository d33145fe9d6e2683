//! Damaged images: the error names the image, and no wrong content is shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::listing::{self, Listing};
use crate::support::stage::{Finished, Stage, Who, finish};
use crate::{inner_program, unpacking};

/// Limit of address space for overcoat and for the program inside: enough for valid images, less
/// than a damaged size could request.
const ADDRESS_SPACE: &str = "--as=1500000000";

/// Lists the root of `layers` with limited memory.
fn list(stage: &Stage, layers: &[&Path]) -> Finished {
    let who = Who::Root;
    let overcoat = stage.path("overcoat");
    inner_program::attempt(stage, who, layers, "list", |command| {
        let mut limited = stage.command(who, "prlimit");
        limited.arg(ADDRESS_SPACE).arg(&overcoat).args(command.get_args());
        *command = limited;
    })
}

/// Returns whether an error message names the image.
fn names(finished: &Finished, image: &Path) -> bool {
    let name = image.file_name().unwrap().to_str().unwrap();
    finished.stderr.lines().any(|line| line.starts_with("overcoat: error:") && line.contains(name))
}

/// Checks that everything listed of a damaged image is correct, or that the damage is reported.
/// Returns whether it is reported.
fn is_correct_or_reported(
    finished: &Finished,
    image: &Path,
    what: &str,
    truth: &Listing,
    base: &Listing,
) -> bool {
    let reported = finished.code == 2;
    assert!(reported || finished.code == 0, "{what}: {finished:?}");
    assert!(!reported || names(finished, image), "{what}: {}", finished.stderr);
    let errors = finished.stderr.lines().filter(|line| line.starts_with("overcoat: error:"));
    assert!(errors.count() <= 1, "{what}: {}", finished.stderr);
    if !finished.text().contains("@end") {
        assert!(reported, "{what}: {finished:?}");
        return true;
    }
    let found = unpacking::captured(&inner_program::listing_of(finished), base);
    let mut unreadable: Vec<&str> = Vec::new();
    for (path, object) in truth {
        match found.get(path) {
            Some(other) if other.is_unreadable() => unreadable.push(path),
            Some(other) => assert_eq!(object, other, "{what}: {path}"),
            None => {
                let above = |dir: &&&str| dir.is_empty() || Path::new(path).starts_with(dir);
                assert!(unreadable.iter().any(|dir| above(&dir)), "{what}: {path} is missing");
            }
        }
    }
    assert!(found.keys().all(|path| truth.contains_key(path)), "{what}: unexpected entries");
    assert!(reported || unreadable.is_empty(), "{what}: unreported: {unreadable:?}");
    reported
}

/// Returns `count` offsets spread over `length`.
fn offsets(length: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |n| (2 * n + 1) * length / (2 * count))
}

#[test]
fn damaged_squashfs_is_reported_and_never_misread() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let listed = unpacking::kernel_base(&stage, &base);
    let truth = unpacking::captured(&listed, &listed);
    let image = fs::read(&base).unwrap();
    let damaged = stage.path("damaged.squashfs");
    let field = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().unwrap()) as usize;
    // The rest of the file is padding.
    let (used, fragments) = (field(40), field(72));
    let mut silent = Vec::new();
    // The tables at the end are small and most important.
    let tables = used - 3000;
    for place in offsets(tables - 96, 40).map(|p| 96 + p).chain((tables..used).step_by(101)) {
        let mut bytes = image.clone();
        bytes[place] ^= 1 << (place % 8);
        fs::write(&damaged, bytes).unwrap();
        let what = format!("a bit flipped at {place} of {used}");
        if !is_correct_or_reported(&list(&stage, &[&damaged]), &damaged, &what, &truth, &listed) {
            silent.push(place);
        }
    }
    // The export table, which is not read, follows the fragment table.
    assert!(silent.iter().all(|place| *place >= fragments), "{silent:?} of {used}");
    for length in offsets(used, 12).chain([0, 4, 95, 96]) {
        fs::write(&damaged, &image[..length]).unwrap();
        let finished = list(&stage, &[&damaged]).code(2);
        assert!(names(&finished, &damaged), "{length}: {}", finished.stderr);
        assert!(!finished.text().contains('@'), "{length}: must be found on open");
    }
}

#[test]
fn damaged_superblock_is_reported_or_harmless() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let listed = unpacking::kernel_base(&stage, &base);
    let truth = unpacking::captured(&listed, &listed);
    let image = fs::read(&base).unwrap();
    let damaged = stage.path("damaged.squashfs");
    for place in 0..96 {
        let mut bytes = image.clone();
        bytes[place] ^= 0x80;
        fs::write(&damaged, bytes).unwrap();
        // Some fields are unused, such as the build time.
        let what = format!("a bit flipped at {place}");
        is_correct_or_reported(&list(&stage, &[&damaged]), &damaged, &what, &truth, &listed);
    }
}

#[test]
fn damaged_overlay_is_reported_on_open() {
    let stage = Stage::new();
    let base = unpacking::torture_base(&stage);
    let listed = unpacking::kernel_base(&stage, &base);
    for (suffix, from) in [("cpio.gz", 10), ("cpio.zst", 4), ("cpio", 0)] {
        let archive = stage.out(Who::Root).join(format!("torture.{suffix}"));
        inner_program::run(&stage, Who::Root, &[&base], "torture", |command| {
            command.arg("--save").arg(&archive);
        });
        let truth = inner_program::listing_of(&list(&stage, &[&base, &archive]).ok());
        let truth = unpacking::captured(&truth, &listed);
        let content = fs::read(&archive).unwrap();
        let damaged = stage.path(format!("damaged.{suffix}"));
        for length in offsets(content.len() - 512, 8) {
            fs::write(&damaged, &content[..length]).unwrap();
            let finished = list(&stage, &[&base, &damaged]).code(2);
            assert!(names(&finished, &damaged), "{suffix}, {length}: {}", finished.stderr);
            assert!(!finished.text().contains('@'), "{suffix}, {length}: must be found on open");
        }
        for place in offsets(content.len() - from - 512, 16).map(|place| from + place) {
            let mut bytes = content.clone();
            bytes[place] ^= 1 << (place % 8);
            fs::write(&damaged, bytes).unwrap();
            let finished = list(&stage, &[&base, &damaged]);
            let what = format!("{suffix}, a bit flipped at {place}");
            if suffix == "cpio" {
                // A plain cpio archive has no checksums.
                assert!(finished.code == 0 || names(&finished, &damaged), "{what}: {finished:?}");
            } else {
                is_correct_or_reported(&finished, &damaged, &what, &truth, &listed);
            }
        }
    }
}

#[test]
fn damage_found_during_a_run_fails_it() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let folder = stage.path("content");
    fs::create_dir(&folder).unwrap();
    // An image with one file, whose first block is then damaged.
    stage.sh("yes overcoat | head -c 3000000 > content/late");
    stage.sh("mksquashfs content late.squashfs -comp gzip -no-progress -quiet");
    let mut bytes = fs::read(stage.path("late.squashfs")).unwrap();
    bytes[96 + 200..96 + 300].fill(0xff);
    fs::write(stage.path("late.squashfs"), bytes).unwrap();
    let finished =
        inner_program::attempt(&stage, who, &[&stage.path("late.squashfs")], "list", |command| {
            command.args(["--save", "out.cpio.gz"]);
        });
    let finished = finished.code(2).stderr_has(&["late.squashfs"]);
    let late = &inner_program::listing_of(&finished)["late"];
    assert!(late.is_unreadable(), "{late:?}");
    assert!(late.content.contains("Input/output error"), "{late:?}");
    assert!(names(&finished, Path::new("late.squashfs")), "{}", finished.stderr);
    assert!(stage.files(who).is_empty());
}

#[test]
fn invalid_images_are_reported_by_name() {
    let stage = Stage::new();
    let who = Who::Unprivileged;
    let file = |name: &str, content: &[u8]| -> PathBuf { stage.write(name, content) };
    let secret = file("secret.squashfs", b"hsqs");
    stage.sh("chmod 600 secret.squashfs");
    for (path, part) in [
        (stage.path("missing.squashfs"), "No such file"),
        (file("empty.squashfs", b""), "not a squashfs image"),
        (file("text.squashfs", b"This is no image.\n"), "not a squashfs image"),
        (file("short.squashfs", b"hsqs"), ""),
        (file("short.cpio", b"070701"), ""),
        (file("short.gz", b"\x1f\x8b"), ""),
        (file("text.gz", b"\x1f\x8b\x08 but nothing else of it"), ""),
        (file("text.zst", b"\x28\xb5\x2f\xfd but nothing else of it"), ""),
        (PathBuf::from("/dev/null"), ""),
        (PathBuf::from("/dev/zero"), ""),
        (secret, "Permission denied"),
    ] {
        let mut command: Command = stage.overcoat(who);
        let finished = finish(command.arg("run").arg(&path).args(["--", "true"])).code(2);
        assert!(names(&finished, &path), "{}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
        finished.stderr_has(&[part]);
    }
}

#[test]
fn folder_can_be_a_base() {
    let stage = Stage::new();
    let folder = stage.path("folder");
    fs::create_dir(&folder).unwrap();
    crate::torture::base(&folder);
    let expected = listing::list(&folder);
    let found = inner_program::run(&stage, Who::Root, &[&folder], "list", |_| ());
    let (expected, found) =
        (unpacking::captured(&expected, &expected), unpacking::captured(&found, &expected));
    listing::assert_same("a folder", &expected, &found);
}

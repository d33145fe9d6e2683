//! Overlays unpacked by other tools and mounted by the kernel over their base show the tree that
//! was seen inside.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::discovery;
use crate::inner_program;
use crate::support::listing::{Listing, assert_same, list};
use crate::support::stage::{EACH_PRIVILEGE, EPOCH, Stage, Who, finish};
use crate::torture;

/// Scratch entries of the sandbox, which hide files of the base and are never captured.
const SCRATCH: [&str; 9] = [
    "etc/apt/apt.conf",
    "etc/hosts",
    "etc/resolv.conf",
    "etc/ssl/certs/ca-certificates.crt",
    "usr/bin/systemd-detect-virt",
    "usr/sbin/policy-rc.d",
    ".overcoat",
    "tool",
    "repo",
];

/// Where a sandbox mounts other file systems.
const MOUNTED: [&str; 5] = ["dev", "proc", "sys", "run", "tmp"];

/// Returns whether a path is on another file system, a scratch entry, or a directory that exists
/// only for scratch entries.
fn is_scratch(path: &str, base: &Listing) -> bool {
    let below =
        |dir: &str| path.strip_prefix(dir).is_some_and(|r| r.is_empty() || r.starts_with('/'));
    MOUNTED.iter().any(|dir| below(dir))
        || SCRATCH.iter().any(|file| {
            below(file)
                || (!base.contains_key(path)
                    && file.strip_prefix(path).is_some_and(|r| r.starts_with('/')))
        })
}

/// Returns `listing` without the entries of the sandbox.
pub(crate) fn captured(listing: &Listing, base: &Listing) -> Listing {
    let kept = listing.iter().filter(|(path, _)| !is_scratch(path, base));
    kept.map(|(path, object)| (path.clone(), object.clone())).collect()
}

/// Returns the entries at paths of the sandbox; outside of it they are those of the base.
fn scratch(listing: &Listing, base: &Listing) -> Listing {
    let kept = listing.iter().filter(|(path, _)| is_scratch(path, base));
    kept.map(|(path, object)| (path.clone(), object.clone())).collect()
}

/// Creates the torture base as a squashfs image.
pub(crate) fn torture_base(stage: &Stage) -> PathBuf {
    let folder = stage.path("torture-base");
    fs::create_dir(&folder).unwrap();
    torture::base(&folder);
    stage.sh("mksquashfs torture-base torture.squashfs -comp gzip -no-progress -quiet");
    stage.path("torture.squashfs")
}

/// A tool that unpacks archives, and its known behaviour.
#[derive(Clone, Copy)]
pub(crate) struct Unpacker {
    name: &'static str,
    /// Unpacks `$1` in the working directory.
    script: &'static str,
    /// Files get the times of the archive.
    times: bool,
    /// An existing directory `.` keeps its mode.
    keeps_root: bool,
    /// Symbolic links belong to root.
    disowns_links: bool,
    /// Sockets become empty files.
    flattens_sockets: bool,
}

const GNU: Unpacker = Unpacker {
    name: "GNU cpio",
    script: "gzip -dc \"$1\" | cpio --quiet -i",
    times: false,
    keeps_root: true,
    disowns_links: false,
    flattens_sockets: false,
};

pub(crate) const UNPACKERS: [Unpacker; 5] = [
    GNU,
    Unpacker {
        name: "GNU cpio -m",
        script: "gzip -dc \"$1\" | cpio --quiet -im",
        times: true,
        ..GNU
    },
    Unpacker {
        name: "busybox cpio",
        script: "gzip -dc \"$1\" | busybox cpio -i",
        disowns_links: true,
        ..GNU
    },
    Unpacker {
        name: "busybox cpio -m",
        script: "gzip -dc \"$1\" | busybox cpio -im",
        times: true,
        disowns_links: true,
        ..GNU
    },
    Unpacker {
        name: "bsdtar",
        script: "bsdtar -xpf \"$1\"",
        times: true,
        keeps_root: false,
        disowns_links: false,
        flattens_sockets: true,
    },
];

/// Unpacks `archive` and lists the kernel's overlayfs mount of it over `base`. Returns this listing
/// and that of the unpacked files.
fn kernel_view(
    stage: &Stage,
    base: &Path,
    archive: &Path,
    unpacker: Unpacker,
) -> (Listing, Listing) {
    let place = stage.path(unpacker.name.replace(' ', "_"));
    let folder = |name: &str| {
        let path = place.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let (lower, memory, merged) = (folder("lower"), folder("memory"), folder("merged"));
    let options = Some("mode=1777,size=90%");
    mount(Some("upper"), &memory, Some("tmpfs"), MsFlags::empty(), options).unwrap();
    let (upper, work) = (folder("memory/upper"), folder("memory/work"));
    // Each mount uses its own copy: a lingering loop device would show the previous image.
    let image = place.join("base.squashfs");
    fs::copy(base, &image).unwrap();
    crate::support::tools::sh(&place, "mount -t squashfs -o loop,ro base.squashfs lower");
    let script = format!("set -- '{}'; {}", archive.display(), unpacker.script);
    crate::support::tools::sh(&upper, &script);
    let unpacked = list(&upper);
    let paths = [("lowerdir", &lower), ("upperdir", &upper), ("workdir", &work)];
    let options: Vec<_> = paths.iter().map(|(k, v)| format!("{k}={}", v.display())).collect();
    let options = options.join(",");
    mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap();
    let listing = list(&merged);
    let detach = nix::mount::MntFlags::MNT_DETACH;
    for path in [&merged, &lower, &memory] {
        nix::mount::umount2(path, detach).unwrap();
    }
    fs::remove_file(image).unwrap();
    (listing, unpacked)
}

/// Lists the kernel's mount of the base.
pub(crate) fn kernel_base(stage: &Stage, base: &Path) -> Listing {
    let place = tempfile::tempdir_in(stage.path("")).unwrap();
    let (image, lower) = (place.path().join("image"), place.path().join("lower"));
    fs::create_dir(&lower).unwrap();
    fs::copy(base, &image).unwrap();
    crate::support::tools::sh(place.path(), "mount -t squashfs -o loop,ro image lower");
    let listing = list(&lower);
    // Another test may be between fork and exec, with these files still open.
    crate::support::tools::sh(place.path(), "umount -l lower");
    listing
}

/// Returns `truth` as a newc archive with `members` stores it: whole seconds from 1970 to 2106,
/// and hard links of nothing but regular files.
fn in_an_archive(truth: &Listing, members: &Listing) -> Listing {
    let mut truth = truth.clone();
    for (path, object) in &mut truth {
        if members.contains_key(path) {
            object.mtime = object.mtime.clamp(0, u32::MAX.into());
            if object.kind != "file" {
                object.links = None;
            }
        }
    }
    truth
}

/// Returns `truth` as a squashfs image with `members` stores it: whole seconds from 1970 to 2106,
/// and no new sockets, which the tar stream that it is made from cannot have.
fn in_squashfs(truth: &Listing, members: &Listing) -> Listing {
    let mut truth = truth.clone();
    for (_, object) in truth.iter_mut().filter(|(path, _)| members.contains_key(*path)) {
        object.mtime = object.mtime.clamp(0, u32::MAX.into());
    }
    truth.retain(|path, object| object.kind != "socket" || !path.starts_with("new/"));
    truth
}

/// Removes the known behaviour of `unpacker` for the unpacked `members` from both listings. All
/// other entries are those of the base and must be equal.
fn without_known_differences(
    unpacker: Unpacker,
    members: &Listing,
    truth: &Listing,
    found: &Listing,
) -> (Listing, Listing) {
    let (mut truth, mut found) = (in_an_archive(truth, members), found.clone());
    if unpacker.keeps_root {
        truth.remove("");
        found.remove("");
    }
    for (path, object) in &mut truth {
        let (true, Some(other)) = (members.contains_key(path), found.get_mut(path)) else {
            continue;
        };
        if unpacker.flattens_sockets && object.kind == "socket" && other.size == 0 {
            assert_eq!(other.kind, "file", "{path}");
            object.kind.clone_from(&other.kind);
            object.content.clone_from(&other.content);
        }
        if unpacker.disowns_links && object.kind == "link" {
            assert_eq!((other.uid, other.gid), (0, 0), "{path}");
            (other.uid, other.gid) = (object.uid, object.gid);
        }
        // Unpackers restore only the times of files.
        if !unpacker.times || object.kind != "file" {
            other.mtime = object.mtime;
        }
    }
    (truth, found)
}

/// Replaces the owners that a namespace with ids up to 65535 does not map, and their aliases, by
/// 65534.
fn as_seen_by(who: Who, truth: &Listing) -> Listing {
    let mut seen = truth.clone();
    if who == Who::Unprivileged {
        for object in seen.values_mut() {
            for id in [&mut object.uid, &mut object.gid] {
                let is_foreign = *id > 65_535 || (60_578..61_184).contains(id);
                *id = if is_foreign { 65_534 } else { *id };
            }
        }
    }
    seen
}

/// Checks that `archive`, unpacked over `base` by each of `unpackers`, is the tree `truth` that
/// `who` saw, with the base's entries at paths of the sandbox. Returns the unpacked entries.
pub(crate) fn assert_unpacks(
    stage: &Stage,
    who: Who,
    base: &Path,
    archive: &Path,
    truth: &Listing,
    unpackers: &[Unpacker],
) -> Listing {
    let listed = kernel_base(stage, base);
    let own = scratch(&listed, &listed);
    let truth = captured(truth, &listed);
    let mut members = Listing::new();
    for unpacker in unpackers {
        let (found, unpacked) = kernel_view(stage, base, archive, *unpacker);
        let what = format!("{who:?}, {}", unpacker.name);
        assert_same(&what, &own, &scratch(&found, &listed));
        let found = as_seen_by(who, &captured(&found, &listed));
        let truth = as_seen_by(who, &truth);
        let (truth, found) = without_known_differences(*unpacker, &unpacked, &truth, &found);
        assert_same(&what, &truth, &found);
        members = unpacked;
    }
    members
}

#[test]
fn torture_overlay_unpacks_to_the_same_tree_with_every_tool() {
    let stage = Stage::new();
    let base = torture_base(&stage);
    let listed = kernel_base(&stage, &base);
    for who in EACH_PRIVILEGE {
        let archive = stage.out(who).join("torture.cpio.gz");
        let finished = inner_program::attempt(&stage, who, &[&base], "torture", |command| {
            command.arg("--save").arg(&archive);
        });
        let finished = finished.ok().stderr_has(&[
            "/new/char-2: unpacks as a separate file, not as a hard link",
            "/new/link-2: unpacks as a separate file, not as a hard link",
        ]);
        let truth = captured(&inner_program::listing_of(&finished), &listed);
        assert!(truth.len() > 200, "{}", truth.len());
        let members = assert_unpacks(&stage, who, &base, &archive, &truth, &UNPACKERS);
        let again = inner_program::run(&stage, who, &[&base, &archive], "list", |_| ());
        let expected = in_an_archive(&truth, &members);
        assert_same(&format!("{who:?}, overcoat"), &expected, &captured(&again, &listed));
    }
}

/// Deletions are whiteouts in the image.
#[test]
fn torture_squashfs_is_a_layer_for_overcoat_and_overlayfs() {
    let stage = Stage::new();
    let base = torture_base(&stage);
    let listed = kernel_base(&stage, &base);
    let who = Who::Unprivileged;
    let image = stage.out(who).join("torture.squashfs");
    let finished = inner_program::attempt(&stage, who, &[&base], "torture", |command| {
        command.arg("--save").arg(&image);
    });
    let finished = finished.ok().stderr_has(&["/new/socket: "]);
    let members = kernel_base(&stage, &image);
    let truth = in_squashfs(&inner_program::listing_of(&finished), &members);
    let expected = captured(&truth, &listed);
    let again = inner_program::run(&stage, who, &[&base, &image], "list", |_| ());
    assert_same("overcoat", &expected, &captured(&again, &listed));

    stage.sh("mkdir lower upper merged
              mount -t squashfs -o loop,ro torture.squashfs lower
              mount -t squashfs -o loop,ro user/torture.squashfs upper
              mount -t overlay -o ro,lowerdir=upper:lower overlay merged");
    let merged = as_seen_by(who, &list(&stage.path("merged")));
    stage.sh("umount merged; umount upper; umount lower");
    assert_same("the kernel", &as_seen_by(who, &expected), &captured(&merged, &listed));
}

#[test]
fn torture_overlay_has_the_same_bytes_at_every_privilege() {
    let stage = Stage::new();
    let base = torture_base(&stage);
    let archive = |who: Who, name: &str| {
        let path = stage.out(who).join(name);
        inner_program::run(&stage, who, &[&base], "torture", |command| {
            command.env("SOURCE_DATE_EPOCH", EPOCH).arg("--save").arg(&path);
        });
        (
            fs::read(&path).unwrap(),
            fs::read(path.with_file_name("torture.cpio.gz.manifest.json")).unwrap(),
        )
    };
    let root = archive(Who::Root, "torture.cpio.gz");
    let user = archive(Who::Unprivileged, "torture.cpio.gz");
    assert!(root == user, "the archives or manifests of root and user differ");
}

#[test]
fn discovery_overlay_equals_the_tree_of_its_last_step() {
    let stage = Stage::new();
    let base = stage.debian();
    let listed = kernel_base(&stage, &base);
    let who = Who::Unprivileged;
    let (shown, list) = inner_program::list_command(&stage);
    stage.write("list/provisioner.yml", "scripts: [list]\n");
    stage.write("list/list", format!("#!/bin/sh\n{list}\n"));
    // The last step would not see files that the clean-up removes.
    let file = discovery::image(&stage, &["list"], "cleanup: {all: false}");
    let (archive, log) = (stage.out(who).join("d.cpio.gz"), stage.out(who).join("log"));
    let mut build = discovery::build(&stage, who, &file, &archive);
    finish(build.args(["--bind", &shown, "--log"]).arg(&log)).ok();
    let truth = inner_program::parse(&String::from_utf8_lossy(&fs::read(&log).unwrap()));
    let truth = captured(&truth, &listed);
    assert!(truth.contains_key("usr/sbin/lldpd") && truth.contains_key("etc/discovery"));
    let plain = UNPACKERS.into_iter().filter(|unpacker| !unpacker.times).collect::<Vec<_>>();
    assert_unpacks(&stage, Who::Root, &base, &archive, &truth, &plain);
    let again = inner_program::run(&stage, who, &[&base, &archive], "list", |_| ());
    assert_same("overcoat", &truth, &captured(&again, &listed));
}

#[test]
fn sparse_file_of_three_gibibytes_is_complete() {
    let stage = Stage::new();
    let base = torture_base(&stage);
    let listed = kernel_base(&stage, &base);
    let who = Who::Unprivileged;
    let archive = stage.out(who).join("large.cpio.zst");
    let truth = inner_program::run(&stage, who, &[&base], "three-gibibytes", |command| {
        command.args(["--upper-size", "64M", "--save"]).arg(&archive);
    });
    assert_eq!(truth["large"].size, 3 << 30);
    let unpacker = Unpacker { script: "zstd -dc \"$1\" | cpio --quiet -i --sparse", ..GNU };
    let (found, unpacked) = kernel_view(&stage, &base, &archive, unpacker);
    let (truth, found) = (captured(&truth, &listed), captured(&found, &listed));
    let (truth, found) = (as_seen_by(who, &truth), as_seen_by(who, &found));
    let (truth, found) = without_known_differences(unpacker, &unpacked, &truth, &found);
    assert_same("3 GiB", &truth, &found);
}

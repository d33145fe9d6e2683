//! Outputs appear complete or not at all; unsupported entries are rejected with their path.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use fs_model::attr::{Attr, FileType};
use overcoat::seal::{BaseLayer, Format, ManifestInfo, Output, SealError, Warning, output, seal};
use overcoat::text::digest::{hex, sha256_hex};
use overcoat::text::escape;

use crate::support::{Data, Sample, attr, everything, noise, options, seal_to, sealed, sh};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn output_is_unnamed_until_complete() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.cpio");
    let mut out = Output::file(&path).unwrap();
    out.write_all(b"some").unwrap();
    assert_eq!(names(dir.path()), [""; 0]);
    drop(out);
    assert_eq!(names(dir.path()), [""; 0], "dropped without a commit");
    let mut out = Output::file(&path).unwrap();
    out.write_all(b"all").unwrap();
    output::commit(vec![out]).unwrap();
    assert_eq!(names(dir.path()), ["o.cpio"]);
    let mut out = Output::file(&path).unwrap();
    out.write_all(b"another").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"all", "the old file stays until the commit");
    output::commit(vec![out]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"another");
    assert_eq!(names(dir.path()), ["o.cpio"]);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o600, 0o600);
}

#[test]
fn output_links_are_followed_and_devices_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::write(at("sub/old"), b"old").unwrap();
    std::os::unix::fs::symlink("sub/old", at("link")).unwrap();
    for name in ["link", "/dev/null"] {
        let mut out = Output::file(&at(name)).unwrap();
        out.write_all(b"new").unwrap();
        output::commit(vec![out]).unwrap();
    }
    assert_eq!(names(dir.path()), ["link", "sub"]);
    assert!(at("link").symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read(at("sub/old")).unwrap(), b"new");
}

#[test]
fn unwritable_output_is_reported_before_sealing() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing/o.cpio");
    let error = Output::file(&missing).unwrap_err();
    assert!(matches!(&error, SealError::Write { to, .. } if to.ends_with("missing/o.cpio")));
    for path in [dir.path().to_owned(), dir.path().join("x/"), "..".into()] {
        assert!(matches!(Output::file(&path), Err(SealError::IsADirectory { .. })), "{path:?}");
    }
}

#[test]
fn closed_pipe_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkfifo pipe");
    let pipe = dir.path().join("pipe");
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || {
            let mut start = [0; 10];
            std::fs::File::open(pipe).unwrap().read_exact(&mut start).unwrap();
            start
        }
    });
    let mut sample = Sample::new();
    sample.file("big", 2, &noise(2, 9_000_000));
    let summary = seal_to(&sample, &options(Format::Cpio), &pipe).unwrap();
    assert!(summary.reader_left);
    assert_eq!(&reader.join().unwrap()[..6], b"070701");
}

#[test]
fn output_to_a_terminal_is_rejected() {
    let exe = std::env::current_exe().unwrap();
    let command = format!("{} outputs::child --exact --ignored", exe.display());
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("SEAL_TEST_CHILD", "terminal");
    let finished = script.stdin(Stdio::null()).output().unwrap();
    assert!(finished.status.success(), "{}", String::from_utf8_lossy(&finished.stdout));
}

#[test]
fn sigkill_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["outputs::child", "--exact", "--ignored", "--nocapture"])
        .env("SEAL_TEST_CHILD", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("half written") {
        line.clear();
        assert!(printed.read_line(&mut line).unwrap() > 0, "the child ended early");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(dir.path()), [""; 0]);
}

/// The process that other tests run.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let order = std::env::var_os("SEAL_TEST_CHILD").expect("run by another test");
    if order == "terminal" {
        assert!(matches!(Output::stdout(), Err(SealError::Terminal)));
        return;
    }
    let mut sample = Sample::new();
    sample.file("big", 2, &noise(2, 9_000_000));
    let archive = Output::file(&Path::new(&order).join("o.cpio.gz")).unwrap();
    let manifest = Output::file(&Path::new(&order).join("o.cpio.gz.manifest.json")).unwrap();
    let manifest = Some((manifest, ManifestInfo::default()));
    let mut progress = |progress: overcoat::seal::Progress| {
        if progress.bytes > 8_000_000 {
            println!("half written");
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    };
    seal(&sample.delta, &sample, &options(Format::CpioGz), archive, manifest, &mut progress)
        .unwrap();
}

fn refused(sample: &Sample, format: Format) -> SealError {
    let dir = tempfile::tempdir().unwrap();
    let error = seal_to(sample, &options(format), &dir.path().join("o")).unwrap_err();
    assert_eq!(names(dir.path()), [""; 0], "{error}");
    error
}

#[test]
fn file_of_4_gib_is_rejected_before_writing() {
    let mut sample = Sample::new();
    sample.data.insert(2, Data::Panics);
    let size = 1 << 32;
    sample.add("dir-\u{e9}/huge", 2, Attr { size, ..attr(FileType::Regular, 0o644) });
    let error = refused(&sample, Format::CpioGz);
    assert!(matches!(&error, SealError::FileTooLarge { size: 4294967296, .. }));
    assert!(error.to_string().starts_with("/dir-\u{e9}/huge: 4294967296 bytes do not fit"));
}

#[test]
fn unsupported_names_and_targets_are_rejected() {
    let mut sample = Sample::new();
    sample.file("n/".repeat(2048), 2, b"");
    let error = refused(&sample, Format::Cpio);
    assert!(matches!(error, SealError::PathTooLong { length: 4096, .. }));
    assert!(error.to_string().len() < 450, "{error}");
    let mut sample = Sample::new();
    sample.add("l", 2, Attr { size: 4096, ..attr(FileType::Symlink, 0o777) });
    assert!(matches!(refused(&sample, Format::Tar), SealError::BadTarget { length: 4096, .. }));
}

#[test]
fn short_failing_or_panicking_content_is_an_error() {
    for format in Format::ALL {
        for size in [20, 2_000_000] {
            let mut sample = Sample::new();
            sample.data.insert(2, Data::Short(vec![b'x'; size as usize - 1]));
            sample.add("short", 2, Attr { size, ..attr(FileType::Regular, 0o644) });
            let error = refused(&sample, format);
            let printed = format!("/short: ends after {} of {size} bytes", size - 1);
            assert!(error.to_string().starts_with(&printed), "{error}");
        }
        let mut sample = Sample::new();
        sample.add("gone", 2, Attr { size: 1, ..attr(FileType::Regular, 0o644) });
        assert!(matches!(refused(&sample, format), SealError::Read { path, .. } if path == "gone"));
        let mut sample = Sample::new();
        sample.file("fine", 3, &noise(3, 3_000_000));
        sample.data.insert(2, Data::Panics);
        sample.add("panics", 2, Attr { size: 1, ..attr(FileType::Regular, 0o644) });
        assert!(matches!(refused(&sample, format), SealError::ReaderPanicked));
    }
}

#[test]
fn full_disk_leaves_nothing() {
    let error =
        seal_to(&everything(), &options(Format::CpioGz), Path::new("/dev/full")).unwrap_err();
    assert!(matches!(&error, SealError::Write { to, .. } if to == "/dev/full"), "{error}");
    if crate::support::is_root() {
        let dir = tempfile::tempdir().unwrap();
        sh(dir.path(), "mount -t tmpfs -o size=256k none .");
        let result = seal_to(&everything(), &options(Format::Cpio), &dir.path().join("o"));
        let left = names(dir.path());
        sh(Path::new("/"), &format!("umount {}", dir.path().display()));
        assert!(matches!(result, Err(SealError::Write { .. })));
        assert_eq!(left, [""; 0]);
    }
}

#[test]
fn unsupported_features_of_a_format_are_reported() {
    let mut sample = everything();
    sample.add("socket", 90, attr(FileType::Socket, 0o755));
    sample.add("dev/char2", 13, attr(FileType::CharDevice, 0o660));
    let list = (fs_model::acl::ACCESS.into(), b"a list"[..].into());
    sample.xattrs.insert(3, vec![(b"user.a"[..].into(), b"1"[..].into()), list]);
    let sample = sample.in_order();
    let warnings = |format| {
        let dir = tempfile::tempdir().unwrap();
        let options = options(format);
        let mut warnings = seal_to(&sample, &options, &dir.path().join("o")).unwrap().warnings;
        warnings.sort_by_key(ToString::to_string);
        warnings
    };
    let path = |path: &str| path.to_string();
    assert_eq!(
        warnings(Format::Cpio),
        [
            Warning::LinkSplit { path: path("dev/char2") },
            Warning::LinkSplit { path: path("dev/char") },
            Warning::XattrsLost {
                path: path("etc/hostname"),
                names: vec!["user.a".into(), "system.posix_acl_access".into()],
            },
        ]
    );
    let squashfs = warnings(Format::Squashfs);
    assert!(squashfs.contains(&Warning::XattrsLost {
        path: path("etc/hostname"),
        names: vec!["system.posix_acl_access".into()],
    }));
    assert_eq!(
        warnings(Format::Tar),
        [
            Warning::MeansDeletion { path: path(".wh..wh..opq") },
            Warning::MeansDeletion { path: path("etc/.wh.dir") },
            Warning::MeansDeletion { path: path("etc/.wh.odd") },
            Warning::SocketLeftOut { path: path("socket") },
        ]
    );
}

#[test]
fn times_are_clamped_to_the_epoch() {
    let sample = everything();
    let mut options = options(Format::Cpio);
    options.source_date_epoch = Some(1_600_000_000);
    let cpio = sealed(&sample, &options);
    let mut rest = &cpio[..];
    let mut most = 0;
    loop {
        let reader = match cpio::newc::Reader::new(rest) {
            Ok(reader) if reader.entry().is_trailer() => break,
            Ok(reader) => reader,
            // The crate rejects names that are not UTF-8: skip the entry.
            Err(_) => break,
        };
        most = most.max(reader.entry().mtime());
        rest = reader.finish().unwrap();
    }
    assert_eq!(most, 1_600_000_000);
}

#[test]
fn manifest_lists_the_entries_of_the_archive() {
    let sample = everything();
    let dir = tempfile::tempdir().unwrap();
    let write = |threads, name: &str| {
        let archive = Output::file(&dir.path().join(name)).unwrap();
        let manifest = dir.path().join(format!("{name}.manifest.json"));
        let mut options = options(Format::CpioGz);
        options.source_date_epoch = Some(1_800_000_000);
        options.threads = threads;
        let layer = BaseLayer { name: "base.squashfs".into(), sha256: "00".repeat(32) };
        let info = ManifestInfo { layers: vec![layer], ..ManifestInfo::default() };
        let out = Some((Output::file(&manifest).unwrap(), info));
        let summary = seal(&sample.delta, &sample, &options, archive, out, &mut |_| ()).unwrap();
        (std::fs::read(manifest).unwrap(), summary)
    };
    let (text, summary) = write(2, "o.cpio.gz");
    assert!(write(1, "p.cpio.gz").0 == text, "the same bytes");
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let archive = std::fs::read(dir.path().join("o.cpio.gz")).unwrap();
    assert_eq!(json["schema"], overcoat::manifest::SCHEMA);
    assert_eq!(json["archive"]["size"], archive.len());
    assert_eq!(json["archive"]["sha256"], sha256_hex(&archive));
    assert_eq!(json["archive"]["sha256"], hex(&summary.sha256));
    assert_eq!(json["layers"][0]["name"], "base.squashfs");
    assert_eq!(json["source_date_epoch"], 1_800_000_000);
    assert_eq!(json["totals"]["counts"]["deleted"]["any"], 3);
    let entries = json["entries"].as_array().unwrap();
    assert_eq!(entries.len(), sample.delta.entries.len());
    for (entry, json) in sample.delta.entries.iter().zip(entries) {
        let text = json["path"].as_str().unwrap();
        assert_eq!(escape::unescape(text).as_deref(), Some(&*entry.path));
        let Some(object) = &entry.object else {
            assert_eq!(json["change"], "deleted");
            continue;
        };
        assert_eq!(json["mode"], format!("{:04o}", object.attr.mode));
        assert!(json["mtime"].as_u64().unwrap() <= 1_800_000_000);
        if object.attr.kind == FileType::Symlink {
            let target = json["target"].as_str().unwrap();
            assert_eq!(escape::unescape(target).as_ref(), sample.targets.get(&object.ino.0));
        }
        if let Some(Data::Bytes(bytes)) = sample.data.get(&object.ino.0) {
            assert_eq!(json["sha256"], sha256_hex(bytes), "{text}");
            assert_eq!(json["size"], bytes.len());
        }
    }
    let link = entries.iter().find(|entry| entry["path"] == "z-link").unwrap();
    assert_eq!((&link["hardlink_to"], &link["links"]), (&"etc/a-link".into(), &3.into()));
}

#[test]
fn progress_reaches_its_end() {
    let sample = everything();
    let dir = tempfile::tempdir().unwrap();
    let archive = Output::file(&dir.path().join("o")).unwrap();
    let mut last = None;
    let mut progress = |now: overcoat::seal::Progress| {
        assert!(last.is_none_or(|last: overcoat::seal::Progress| last.bytes <= now.bytes));
        last = Some(now);
    };
    seal(&sample.delta, &sample, &options(Format::CpioGz), archive, None, &mut progress).unwrap();
    let last = last.unwrap();
    assert_eq!((last.entries, last.bytes), (last.entries_total, last.bytes_total));
}

#[test]
fn formats_are_recognized_by_file_name() {
    for format in Format::ALL {
        assert_eq!(Format::from_name(format.name()), Some(format));
        let name = format!("overlay.{format}");
        assert_eq!(Format::from_path(Path::new(&name)), Some(format));
    }
    assert_eq!(Format::from_path(Path::new(".cpio.gz")), None);
    assert_eq!(Format::from_path(Path::new("overlay.gz")), None);
    assert_eq!(Format::from_name("zip"), None);
}

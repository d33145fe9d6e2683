//! Compressed streams, as other programs read them.

use fs_model::FileType;
use fs_model::acl;
use overcoat::seal::{Format, SealOptions};

use crate::support::{Sample, attr, everything, noise, options, sealed, sh};

fn write(options: &SealOptions, name: &str, dir: &std::path::Path) -> Vec<u8> {
    let mut sample = everything();
    sample.file("zzz-noise", 99, &noise(99, 3_000_000));
    let bytes = sealed(&sample, options);
    std::fs::write(dir.join(name), &bytes).unwrap();
    bytes
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    // Some of the sample's times are in the future, and so would be the image's.
    let options =
        |format| SealOptions { source_date_epoch: Some(1_700_000_000), ..options(format) };
    for format in Format::ALL {
        let expected = write(&SealOptions { threads: 1, ..options(format) }, "1", dir.path());
        for threads in [2, 7] {
            let got = write(&SealOptions { threads, ..options(format) }, "n", dir.path());
            assert!(got == expected, "{format} on {threads} threads");
        }
        assert!(write(&options(format), "again", dir.path()) == expected, "{format} again");
    }
}

#[test]
fn gzip_is_one_plain_member_for_every_reader() {
    let dir = tempfile::tempdir().unwrap();
    let cpio = write(&options(Format::Cpio), "o.cpio", dir.path());
    assert!(cpio.len().is_multiple_of(512));
    for level in [1, 6, 9] {
        let options = SealOptions { level: Some(level), ..options(Format::CpioGz) };
        let gzip = write(&options, "o.cpio.gz", dir.path());
        assert_eq!(gzip[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "flags and time are 0");
        assert_eq!(gzip[9], 255);
        sh(
            dir.path(),
            "gzip -t o.cpio.gz; pigz -t o.cpio.gz
             for tool in 'gzip -dc' 'busybox zcat' 'pigz -dc' 'bsdcat'; do
                 $tool <o.cpio.gz >out; cmp out o.cpio
             done
             python3 -c '
import gzip, zlib
data = open(\"o.cpio.gz\", \"rb\").read()
assert gzip.decompress(data) == open(\"o.cpio\", \"rb\").read()
one = zlib.decompressobj(31)
one.decompress(data)
assert one.eof and one.unused_data == b\"\", \"more than one member\"'",
        );
    }
}

#[test]
fn zstd_is_one_frame_with_a_checksum() {
    let dir = tempfile::tempdir().unwrap();
    write(&options(Format::Cpio), "o.cpio", dir.path());
    for level in [1, 3, 19] {
        let options = SealOptions { level: Some(level), ..options(Format::CpioZst) };
        write(&options, "o.cpio.zst", dir.path());
        let listed = sh(
            dir.path(),
            "zstd -q -t o.cpio.zst; zstd -q -dc o.cpio.zst | cmp - o.cpio; zstd -lv o.cpio.zst",
        );
        let listed = String::from_utf8(listed.stdout).unwrap();
        let frames = listed.lines().find(|line| line.contains("Frames")).unwrap();
        assert!(frames.trim_end().ends_with(" 1"), "{listed}");
        assert!(listed.contains("XXH64"), "{listed}");
    }
}

#[test]
fn invalid_levels_are_rejected() {
    for (format, level) in
        [(Format::CpioGz, 0), (Format::CpioGz, 10), (Format::CpioZst, 20), (Format::Cpio, 1)]
    {
        let dir = tempfile::tempdir().unwrap();
        let options = SealOptions { level: Some(level), ..options(format) };
        let error = crate::support::seal_to(&Sample::new(), &options, &dir.path().join("o"));
        assert!(error.unwrap_err().to_string().contains("no compression level"));
    }
}

#[test]
fn the_cpio_crate_reads_the_same_entries() {
    let mut sample = everything();
    // The crate rejects names that are not UTF-8.
    sample.delta.entries.retain(|entry| std::str::from_utf8(&entry.path).is_ok());
    let sample = sample.in_order();
    let cpio = sealed(&sample, &options(Format::Cpio));
    let mut rest = &cpio[..];
    let mut numbers = Vec::new();
    for entry in &sample.delta.entries {
        let mut reader = cpio::newc::Reader::new(rest).unwrap();
        let read = reader.entry().clone();
        let path = std::str::from_utf8(&entry.path).unwrap();
        assert_eq!(read.name().trim_start_matches("./"), if path.is_empty() { "." } else { path });
        let mode = entry.object.map_or(0o020000, |object| object.attr.st_mode());
        assert_eq!(read.mode(), mode, "{path}");
        numbers.push(read.ino());
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
        assert_eq!(content.len() as u32, read.file_size());
        rest = reader.finish().unwrap();
    }
    let reader = cpio::newc::Reader::new(rest).unwrap();
    assert!(reader.entry().is_trailer());
    let most = *numbers.iter().max().unwrap();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.into_iter().eq(1..=most), "inodes are numbered from 1 on, without gaps");
}

#[test]
fn sqfstar_converts_a_tar() {
    let mut sample = everything();
    sample.delta.entries.retain(|entry| entry.object.is_some());
    // cap_net_raw+ep, as `setcap` writes it; and binary data.
    let mut capability = vec![1, 0, 0, 2];
    capability.extend_from_slice(&[0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let binary = [0, 0xff, b'\n', b'=', 1];
    let xattrs = vec![
        (b"security.capability"[..].into(), capability.into()),
        (b"user.note"[..].into(), binary[..].into()),
    ];
    sample.xattrs.insert(3, xattrs);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tar"), sealed(&sample, &options(Format::Tar))).unwrap();
    // sqfstar 4.5 ignores the tar's entry for the root. It has an option for the mode, and takes
    // the time from the clock, clamped to SOURCE_DATE_EPOCH.
    let printed = sh(
        dir.path(),
        "SOURCE_DATE_EPOCH=4000000000 sqfstar -quiet -no-progress -root-mode 0755 image <tar 2>&1
         unsquashfs -lln image",
    );
    let listed = String::from_utf8_lossy(&printed.stdout).into_owned();
    for line in [
        "drwxr-xr-x 0/0 ",
        "-rwsr-xr-x 1/3000000 ",
        "drwxr-s--- 100000/65534 ",
        "crw-rw---- 0/0                   5,  1",
        "squashfs-root/long-link -> tttttttt",
        "squashfs-root/TRAILER!!!",
    ] {
        assert!(listed.contains(line), "{line} in:\n{listed}");
    }
    let root = listed.lines().find(|line| line.ends_with(" squashfs-root")).unwrap();
    assert!(root.starts_with("drwxr-xr-x"), "{root}");
    if crate::support::is_root() {
        sh(
            dir.path(),
            "unsquashfs -quiet -no-progress -dest root image >/dev/null
             test \"$(stat -c %i:%h root/etc/a-link)\" = \"$(stat -c %i:%h root/z-link)\"
             test \"$(stat -c %h root/z-link)\" = 3
             python3 -c '
import os
note = os.getxattr(\"root/etc/hostname\", \"user.note\")
assert note == bytes([0, 255, 10, 61, 1]), note
assert len(os.getxattr(\"root/etc/hostname\", \"security.capability\")) == 20
assert os.path.getsize(\"root/sparse\") == 3000000
assert os.lstat(\"root/after-2038\").st_mtime == 3000000000'",
        );
    }
}

#[test]
fn access_lists_in_a_tar_are_read_by_other_tools() {
    let list = |named: [u8; 2], mask: u8| {
        let id = |tag, may, id: u32| [&[tag, 0, may, 0][..], &id.to_le_bytes()].concat();
        let nobody = u32::MAX;
        let [user, group] = named;
        let entries = [
            id(1, 6, nobody),
            id(2, user, 1234),
            id(4, 4, nobody),
            id(8, group, 70_000),
            id(16, mask, nobody),
            id(32, 0, nobody),
        ];
        [&2u32.to_le_bytes()[..], &entries.concat()].concat()
    };
    let (access, default) = (list([6, 1], 7), list([4, 5], 5));
    let mut sample = Sample::new();
    sample.add("dir", 2, attr(FileType::Directory, 0o670)).file("dir/file", 3, b"x");
    sample.xattrs.insert(
        2,
        vec![
            (acl::ACCESS.into(), access[..].into()),
            (acl::DEFAULT.into(), default[..].into()),
            (b"user.note"[..].into(), b"1"[..].into()),
        ],
    );
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tar"), sealed(&sample, &options(Format::Tar))).unwrap();
    for unpack in ["tar -xf tar --no-same-owner --acls --xattrs", "bsdtar -xf tar --acls --xattrs"]
    {
        sh(dir.path(), unpack);
        let found = |name: &[u8]| {
            let mut value = [0; 200];
            let name = std::str::from_utf8(name).unwrap();
            let len = rustix::fs::getxattr(dir.path().join("dir"), name, &mut value[..]).unwrap();
            value[..len].to_vec()
        };
        assert!(found(acl::ACCESS) == access, "{unpack}");
        assert!(found(acl::DEFAULT) == default, "{unpack}");
        assert_eq!(found(b"user.note"), b"1");
        std::fs::remove_dir_all(dir.path().join("dir")).unwrap();
    }
}

#[test]
fn empty_image_has_no_build_time() {
    let image = sealed(&Sample::default(), &options(Format::Squashfs));
    // The superblock's modification time.
    assert_eq!(image[8..12], [0; 4]);
}

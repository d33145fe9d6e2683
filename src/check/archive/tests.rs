//! Tests of the archive scanner with random input.

use proptest::prelude::*;

use super::entry_relations::EntryRelations;
use super::parse::{NewcEvent, NewcParser};
use super::scan;

/// A random archive: valid and invalid names, file types and sizes.
fn archive() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        ".",
        "a",
        "a/b",
        "a/b/c",
        "/x",
        "../y",
        "a//b",
        "./a",
        "TRAILER!!!",
        "",
        "l",
        "l/x",
        ".wh.a",
    ]);
    let mode = prop::sample::select(vec![
        0o040755u32,
        0o100644,
        0o120777,
        0o020600,
        0o060600,
        0o140755,
        0o170000,
        0,
    ]);
    let entry = (name, mode, 0u32..3, 0u32..4, prop::collection::vec(any::<u8>(), 0..20));
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        let mut bytes = Vec::new();
        for (name, mode, ino, nlink, data) in entries {
            let sizes = [data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
            bytes.extend(b"070701");
            for field in [ino, mode, 0, 0, nlink, 0].into_iter().chain(sizes) {
                bytes.extend(format!("{field:08x}").bytes());
            }
            bytes.extend(name.bytes().chain([0]));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    })
}

/// Returns the events of a parser that gets `bytes` in chunks of these sizes, used cyclically.
fn events(bytes: &[u8], sizes: &[usize]) -> Vec<String> {
    let mut parser = NewcParser::new();
    let mut events = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        let (chunk, after) = rest.split_at(size);
        let read = parser.feed(chunk, false, &mut |event| events.push(format!("{event:?}")));
        assert_eq!(read, chunk.len());
        rest = after;
    }
    events.push(format!("{} {}", parser.within(), parser.within_entry()));
    events
}

proptest! {
    #[test]
    fn chunk_sizes_do_not_change_the_result(
        bytes in archive(),
        sizes in prop::collection::vec(1usize..200, 1..8),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut bytes = bytes;
        for (at, byte) in damage {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        prop_assert_eq!(events(&bytes, &sizes), events(&bytes, &[]));
    }

    #[test]
    fn scan_accepts_arbitrary_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        magic in 0..5,
    ) {
        let magics: [&[u8]; 5] =
            [b"", b"070701", b"\x1f\x8b\x08\x04", b"\x28\xb5\x2f\xfd", b"\0\0"];
        let image = [magics[magic as usize], &bytes].concat();
        scan(&image);
    }

    /// Damage must not pass silently: an archive that the layer reader rejects has an error.
    #[test]
    fn archive_that_the_reader_rejects_has_an_error(bytes in archive(), end in any::<bool>()) {
        let mut bytes = bytes;
        if end {
            bytes.extend(format!("070701{:088x}0000000b{:08x}TRAILER!!!\0\0\0\0", 0, 0).bytes());
        }
        let image = std::sync::Arc::new(bytes.clone());
        let read = fs_model::layer::cpio::CpioLayer::open("x", image, Default::default());
        let error = scan(&bytes).into_iter().any(|fault| fault.severity == super::Severity::Error);
        if let Err(rejected) = read {
            // The scanner does not check these conditions; the reader's error becomes the finding.
            let unchecked = ["the root is", "not empty", "parent", ".wh.", "NUL"];
            let text = rejected.to_string();
            prop_assert!(error || unchecked.iter().any(|what| text.contains(what)), "{}", text);
        }
    }
}

#[test]
fn overlong_name_is_skipped() {
    let mut relations = EntryRelations::new();
    let mut parser = NewcParser::new();
    let header = format!("070701{:08x}{:08x}{}", 1, 0o100644, "00000000".repeat(9));
    let bytes = [header.as_bytes(), format!("{:08x}00000000", 1 << 20).as_bytes()].concat();
    parser.feed(&bytes, false, &mut |_| ());
    let mut entries = 0;
    for _ in 0..257 {
        let mut emit = |event| {
            if let NewcEvent::Entry(entry) = event {
                assert!(entry.name.len() <= 4096);
                relations.entry(entry);
                entries += 1;
            }
        };
        parser.feed(&[b'n'; 4096], false, &mut emit);
    }
    assert_eq!(entries, 1);
    assert_eq!(relations.finish()[0].lint.name, "archive/dropped-entry");
}

#[test]
fn tar_is_distinguished_from_a_damaged_archive() {
    use std::io::Write;

    let mut tar = vec![0; 4 * 512];
    tar[..8].copy_from_slice(b"etc/motd");
    tar[257..265].copy_from_slice(b"ustar\x0000");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    gzip.write_all(&tar).unwrap();
    let compressed = gzip.finish().unwrap();
    for (image, text) in [(tar, "it is a tar archive"), (compressed, "a tar archive does not")] {
        let faults = scan(&image);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].lint.name, "archive/unreadable");
        assert!(faults[0].message.contains(text), "{}", faults[0].message);
    }
}

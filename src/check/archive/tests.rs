//! The scanner alone: whatever it reads, and in whatever pieces.

use proptest::prelude::*;

use super::ledger::Ledger;
use super::parse::{Met, Parser};
use super::scan;

/// An archive of some entries: names, kinds and sizes that mean something, and some that do not.
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

/// What is met, in pieces of these sizes.
fn met(bytes: &[u8], sizes: &[usize]) -> Vec<String> {
    let mut parser = Parser::new();
    let mut met = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
        let (piece, after) = rest.split_at(size);
        let read = parser.feed(piece, false, &mut |what| met.push(format!("{what:?}")));
        assert_eq!(read, piece.len());
        rest = after;
    }
    met.push(format!("{} {}", parser.within(), parser.within_entry()));
    met
}

proptest! {
    #[test]
    fn an_archive_is_the_same_in_whatever_pieces_it_comes(
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
        prop_assert_eq!(met(&bytes, &sizes), met(&bytes, &[]));
    }

    #[test]
    fn anything_gets_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..600), magic in 0..5) {
        let magics: [&[u8]; 5] = [b"", b"070701", b"\x1f\x8b\x08\x04", b"\x28\xb5\x2f\xfd", b"\0\0"];
        let image = [magics[magic as usize], &bytes].concat();
        scan(&image);
    }

    /// What the reader of layers takes and what is found agree: an archive that it refuses has an
    /// error, for no damage may pass in silence.
    #[test]
    fn what_the_reader_refuses_has_an_error(bytes in archive(), end in any::<bool>()) {
        let mut bytes = bytes;
        if end {
            bytes.extend(format!("070701{:088x}0000000b{:08x}TRAILER!!!\0\0\0\0", 0, 0).bytes());
        }
        let image = std::sync::Arc::new(bytes.clone());
        let read = fs_model::layer::cpio::CpioLayer::open("x", image, Default::default());
        let error = scan(&bytes).into_iter().any(|fault| fault.severity == super::Severity::Error);
        if let Err(refused) = read {
            // A root that is no directory, a directory that is replaced, and what stands in the target
            // of a link, the scanner leaves to it: that it is refused is then what is found.
            let left =
                ["the root is not a directory", "not empty", "parent", "without a name", "target that contains a NUL"];
            let said = refused.to_string();
            prop_assert!(error || left.iter().any(|left| said.contains(left)), "{}", said);
        }
    }
}

#[test]
fn names_that_take_too_much_are_read_past() {
    let mut ledger = Ledger::new();
    let mut parser = Parser::new();
    let header = format!("070701{:08x}{:08x}{}", 1, 0o100644, "00000000".repeat(9));
    let bytes = [header.as_bytes(), format!("{:08x}00000000", 1 << 20).as_bytes()].concat();
    parser.feed(&bytes, false, &mut |_| ());
    let mut entries = 0;
    for _ in 0..257 {
        let mut meet = |met| {
            if let Met::Entry(entry) = met {
                assert!(entry.name.len() <= 4096);
                ledger.entry(entry);
                entries += 1;
            }
        };
        parser.feed(&[b'n'; 4096], false, &mut meet);
    }
    assert_eq!(entries, 1);
    assert_eq!(ledger.finish()[0].lint.name, "archive/dropped-entry");
}

#[test]
fn a_tar_is_told_from_a_damaged_archive() {
    use std::io::Write;

    let mut tar = vec![0; 4 * 512];
    tar[..8].copy_from_slice(b"etc/motd");
    tar[257..265].copy_from_slice(b"ustar\x0000");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    gzip.write_all(&tar).unwrap();
    for (image, said) in [(tar, "a tar archive"), (gzip.finish().unwrap(), "a tar is none")] {
        let faults = scan(&image);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].lint.name, "archive/unreadable");
        assert!(faults[0].message.contains(said), "{}", faults[0].message);
    }
}

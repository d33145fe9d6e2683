//! Files with holes.

use super::{Other, Refused, Same, Stricter, check, new};
use crate::raw::Header;

fn map(entries: &[(u64, u64)]) -> Vec<u8> {
    entries.iter().flat_map(|(at, len)| format!("{at:011o}\0{len:011o}\0").into_bytes()).collect()
}

/// An old GNU header of a sparse file.
fn old_sparse(size: u64, entries: &[(u64, u64)], real_size: u64) -> Header {
    let more = entries.len() > 4;
    Header::gnu(b'S', "a")
        .size(size)
        .put(386, map(&entries[..entries.len().min(4)]))
        .put(482, [u8::from(more)])
        .put(483, format!("{real_size:011o}\0"))
}

#[test]
fn holes_stay_holes_and_maps_are_bounded() {
    let block = [b'd'; 512];
    let many: Vec<(u64, u64)> = (0..60).map(|n| (n * 1024, 512)).collect();
    let mut many_blocks = new().header(old_sparse(60 * 512, &many, 1 << 20));
    for (index, entries) in many[4..].chunks(21).enumerate() {
        let mut block = map(entries);
        block.resize(504, 0);
        block.push(u8::from(index < 2));
        many_blocks = many_blocks.data(block);
    }
    let version_1 = |lines: &str, data: &[u8], real_size: &[u8]| {
        let mut content = lines.as_bytes().to_vec();
        content.resize(content.len().next_multiple_of(512), 0);
        content.extend_from_slice(data);
        let records: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"a"),
            ("GNU.sparse.realsize", real_size),
        ];
        new()
            .pax(records)
            .member(Header::new(b'0', "GNUSparseFile.1/a"), content)
            .file("b", "x")
            .end()
    };
    let version_0 = |records: &[(&str, &[u8])], data: &[u8]| {
        new().pax(records).member(Header::new(b'0', "a"), data).file("b", "x").end()
    };
    let two = [block, block].concat();
    let snapshots = check(vec![
        (
            "a hole of 16 tebibytes",
            version_1("2\n512\n512\n17592186044416\n0\n", &block, b"17592186044416"),
            Same,
        ),
        (
            "a hole of 16 tebibytes in the old form",
            new()
                .header(
                    old_sparse(512, &[(512, 512)], 0)
                        .put(410, [0x80, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0])
                        .put(422, format!("{:011o}\0", 0))
                        .put(483, [0x80, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0]),
                )
                .data(block)
                .file("b", "x")
                .end(),
            Same,
        ),
        (
            "an old map in many blocks",
            many_blocks.bytes(block.repeat(60)).file("b", "x").end(),
            Other("without a last entry GNU tar leaves the file shorter than its size"),
        ),
        (
            "version 0.0",
            version_0(
                &[
                    ("GNU.sparse.size", b"4096"),
                    ("GNU.sparse.numblocks", b"3"),
                    ("GNU.sparse.offset", b"512"),
                    ("GNU.sparse.numbytes", b"512"),
                    ("GNU.sparse.offset", b"2048"),
                    ("GNU.sparse.numbytes", b"512"),
                    ("GNU.sparse.offset", b"4096"),
                    ("GNU.sparse.numbytes", b"0"),
                ],
                &two,
            ),
            Same,
        ),
        (
            "version 0.1",
            version_0(
                &[
                    ("GNU.sparse.size", b"4096"),
                    ("GNU.sparse.numblocks", b"3"),
                    ("GNU.sparse.name", b"a"),
                    ("GNU.sparse.map", b"512,512,2048,512,4096,0"),
                    ("path", b"not/this"),
                ],
                &two,
            ),
            Same,
        ),
        (
            "a hole of a petabyte",
            version_1("2\n512\n512\n1125899906842624\n0\n", &block, b"1125899906842624"),
            Stricter("a: a file of 1125899906842624 bytes including holes"),
        ),
        (
            "a hole beyond all files",
            version_1("1\n9223372036854775807\n1\n", b"x", b"9223372036854775808"),
            Refused("a: damaged: its pax header has an invalid GNU.sparse.realsize"),
        ),
        (
            "version 1.0",
            version_1("2\n0\n512\n600\n3\n", &[&block[..], b"abc"].concat(), b"603"),
            Same,
        ),
        (
            "pieces without padding",
            version_1("2\n0\n500\n600\n12\n", &block, b"612"),
            Other("GNU tar takes each piece from a block of its own; libarchive wrote it so"),
        ),
        (
            "overlapping pieces",
            version_1("2\n0\n512\n511\n512\n", &two, b"4096"),
            Stricter("a: damaged: the map of its holes has pieces that overlap"),
        ),
        (
            "pieces out of order",
            version_1("2\n512\n512\n0\n512\n", &two, b"4096"),
            Stricter("a: damaged: the map of its holes has pieces that overlap"),
        ),
        (
            "a piece beyond the end",
            version_1("1\n0\n512\n", &block, b"100"),
            Stricter("a: damaged: the map of its holes has a piece beyond the end"),
        ),
        (
            "a piece beyond the end in the old form",
            new().header(old_sparse(512, &[(0, 512)], 100)).data(block).end(),
            Refused("a: damaged: the map of its holes has a piece beyond the end"),
        ),
        (
            "more pieces than data",
            version_1("2\n0\n512\n1024\n512\n", &block, b"4096"),
            Refused("has more data than the archive holds"),
        ),
        (
            "an endless map",
            version_1("9999999999999\n0\n0\n", &block, b"4096"),
            Refused("a: damaged: the map of its holes"),
        ),
        (
            "a map without numbers",
            version_1("two\n", &block, b"4096"),
            Refused("a: damaged: the map of its holes is malformed"),
        ),
        (
            "a missing map",
            version_0(&[("GNU.sparse.size", b"4096")], &block),
            Refused("a: damaged: the map of its holes is missing"),
        ),
        (
            "half a pair",
            version_0(&[("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,512,7")], &block),
            Refused("the map of its holes is malformed"),
        ),
        (
            "a newer version",
            version_0(&[("GNU.sparse.major", b"2")], b"1\n0\n1\n"),
            Refused("a newer version of sparse files"),
        ),
    ]);
    let hole = |index: usize| snapshots[index].as_ref().unwrap()[&b"a"[..]].size;
    assert_eq!((hole(0), hole(1), hole(2)), (16 << 40, 16 << 40, 1 << 20));
}

//! Headers of all kinds, and where an archive ends.

use super::{Noted, Other, Refused, Same, Stricter, check, new};
use crate::raw::{Archive, Header, pax_records};

#[test]
fn headers_of_all_times_are_read() {
    let long = "n".repeat(150);
    let name_300 = ["d".repeat(100), "e".repeat(99), "f".repeat(99)].join("/");
    let prefixed = Header::new(b'0', "name").put(345, "prefix/dir");
    check(vec![
        (
            "v7",
            new()
                .header(Header::v7(0, "dir/").mode(0o750))
                .member(Header::v7(0, "dir/file").ids(1, 2), "content")
                .header(Header::v7(b'1', "dir/link").put(157, "dir/file"))
                .header(Header::v7(b'2', "symlink").put(157, "dir/file"))
                .end(),
            Same,
        ),
        ("a slash at the end", new().header(Header::new(b'7', "a//")).file("a/b", "x").end(), Same),
        ("contiguous", new().member(Header::new(b'7', "a"), "x").end(), Same),
        ("unknown type", new().member(Header::new(b'Z', "a"), "x").end(), Noted("type 'Z'")),
        ("full name", new().header(Header::new(b'0', "n".repeat(100))).end(), Same),
        ("prefix", new().header(prefixed.clone()).end(), Same),
        ("no prefix in GNU headers", new().header(prefixed.put(257, b"ustar  \0")).end(), Same),
        (
            "long names",
            new()
                .member(Header::gnu(b'L', "././@LongLink"), &name_300)
                .header(Header::gnu(b'0', "cut off"))
                .member(Header::gnu(b'K', "././@LongLink"), format!("{long}\0"))
                .member(Header::gnu(b'L', "././@LongLink"), format!("l{long}\0rest"))
                .header(Header::gnu(b'2', "cut off"))
                .end(),
            Same,
        ),
        (
            "a name that is too long",
            new()
                .member(Header::gnu(b'L', "././@LongLink"), "a/".repeat(40_000))
                .file("x", "")
                .end(),
            Refused("its name has more than 65536 bytes"),
        ),
        (
            "a path that is too long",
            new().member(Header::gnu(b'L', "././@LongLink"), "a/".repeat(2050)).file("x", "").end(),
            Refused("longer than 4,095 bytes"),
        ),
        (
            "empty fields",
            new().member(Header::new(b'0', "a").put(100, [0; 24]).put(329, [0; 16]), "x").end(),
            Same,
        ),
        (
            "blank fields",
            new().header(Header::new(b'0', "a").put(108, b"        ")).end(),
            Refused("a: damaged: the owner in its header"),
        ),
        (
            "digits without an end",
            new().header(Header::new(b'0', "a").put(136, b"777777777777")).end(),
            Same,
        ),
        (
            "large and negative numbers",
            new()
                .header(
                    Header::new(b'0', "a")
                        .put(108, [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe])
                        .put(116, [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])
                        .put(136, [0x80, 0, 0, 0, 0, 0, 0, 0x7f, 0, 0, 0, 0]),
                )
                .header(Header::new(b'0', "b").put(136, [0xff; 12]))
                .end(),
            Same,
        ),
        (
            "an owner beyond 32 bits",
            new().header(Header::new(b'0', "a").put(108, [0x80, 0, 0, 1, 0, 0, 0, 0])).end(),
            Refused("a: damaged: the owner"),
        ),
        (
            "signed checksum",
            new().bytes(Header::new(b'0', "\u{e9}\u{e9}").summed_signed()).end(),
            Same,
        ),
        (
            "sizes of objects without data",
            new()
                .file("a", "x")
                .header(Header::link(b'1', "b", "a").size(1))
                .header(Header::link(b'2', "c", "a").size(1))
                .header(Header::new(b'5', "d").size(4096))
                .header(Header::new(b'6', "e").size(1))
                .file("f", "x")
                .end(),
            Same,
        ),
        (
            "devices",
            new()
                .header(Header::new(b'3', "c").put(329, b"0007777\0").put(337, b"3777777\0"))
                .header(Header::new(b'4', "b"))
                .end(),
            Same,
        ),
        (
            "a device number beyond Linux's",
            new().header(Header::new(b'3', "c").put(329, b"0010000\0")).end(),
            Refused("c: damaged: the device number"),
        ),
        ("a whiteout", new().header(Header::new(b'3', "c")).end(), Stricter("0:0")),
    ]);
}

#[test]
fn archives_end_where_gnu_tar_ends_them() {
    let damaged = Header::new(b'0', "b").put(148, b"0000000\0");
    let damaged = |archive: Archive| {
        let mut bytes = archive.header(damaged.clone()).0;
        let at = bytes.len() - 500;
        bytes[at] ^= 1;
        bytes
    };
    let whole = new().file("a", "x").file("b", "y").0;
    check(vec![
        (
            "a lone zero block",
            new().file("a", "x").bytes([0; 512]).file("b", "x").end(),
            Noted("lone block of zeros at byte 1024"),
        ),
        ("no end", new().file("a", "x").0, Noted("does not end with")),
        ("concatenated", new().file("a", "x").bytes(new().end()).file("b", "x").end(), Same),
        ("nothing but the end", new().end(), Same),
        ("no archive", b"#!/bin/sh\n".repeat(100), Refused("not a tar archive")),
        ("a wrong checksum at first", damaged(new()), Refused("not a tar archive")),
        (
            "a wrong checksum",
            damaged(new().file("a", "x")),
            Refused("checksum of a header is wrong (at byte 1024"),
        ),
        (
            "cut off in data",
            whole[..whole.len() - 512].to_vec(),
            Refused("b: the archive ends early"),
        ),
        (
            "cut off in a block",
            whole[..whole.len() - 1].to_vec(),
            Refused("b: the archive ends early"),
        ),
        ("cut off in a header", whole[..1124].to_vec(), Stricter("the archive ends early")),
        (
            "cut off after a pax header",
            new().file("a", "x").pax(&[("path", b"b")]).0,
            Stricter("the archive ends early"),
        ),
        (
            "a size beyond the archive",
            new()
                .header(Header::new(b'0', "a").put(124, [0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]))
                .end(),
            Refused("a: the archive ends early"),
        ),
        (
            "a size beyond all files",
            new()
                .header(Header::new(b'0', "a").put(124, [0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]))
                .end(),
            Refused("a: damaged: the size"),
        ),
        (
            "a volume label",
            new()
                .header(Header::gnu(b'V', "label"))
                .file("a", "x")
                .header(Header::gnu(b'V', "b"))
                .end(),
            Same,
        ),
        (
            "many volume labels",
            (0..20_000)
                .fold(new(), |a, _| a.header(Header::gnu(b'V', "label")))
                .file("a", "x")
                .end(),
            Same,
        ),
        (
            "a directory of an incremental archive",
            new().member(Header::gnu(b'D', "a/"), "Yb\0Nc\0\0").file("a/b", "x").end(),
            Same,
        ),
        (
            "a later volume",
            new().member(Header::gnu(b'M', "a"), "rest").file("b", "x").end(),
            Refused("a: not supported: it continues from another volume"),
        ),
        (
            "a later volume of pax",
            new()
                .global(&[
                    ("GNU.volume.filename", b"a"),
                    ("GNU.volume.size", b"4"),
                    ("GNU.volume.offset", b"10"),
                ])
                .file("GNUFileParts/a.1", "rest")
                .end(),
            Stricter("it continues from another volume"),
        ),
    ]);
}

#[test]
fn pax_records_hold_any_bytes() {
    let name = format!("{}\n\u{e9}x", "n".repeat(120));
    check(vec![
        (
            "all kinds of records",
            new()
                .pax(&[
                    ("comment", b"two\nlines\0"),
                    ("path", name.as_bytes()),
                    ("uid", b"4000000000"),
                    ("gid", b"7"),
                    ("mtime", b"-1.25"),
                    ("SCHILY.xattr.user.a", b"1\n2\0=3"),
                    ("SCHILY.xattr.user.b%3Dc%25", b"x"),
                    ("SCHILY.fflags", b"nodump"),
                    ("uname", b"nobody"),
                ])
                .file("cut off", "x")
                .pax(&[("linkpath", name.as_bytes())])
                .hard_link("link", "cut off")
                .end(),
            Same,
        ),
        ("a NUL in a name", new().pax(&[("path", b"a\0b")]).file("x", "").end(), Same),
        (
            "a size",
            new().pax(&[("size", b"3")]).header(Header::new(b'0', "a")).data("abc").end(),
            Same,
        ),
        ("the last record", new().pax(&[("uid", b"1"), ("uid", b"2")]).file("a", "").end(), Same),
        (
            "the last header",
            new().pax(&[("uid", b"1")]).pax(&[("gid", b"1")]).file("a", "").end(),
            Same,
        ),
        (
            "global records",
            new()
                .global(&[("mtime", b"5.5"), ("uid", b"3"), ("gid", b"4")])
                .file("a", "x")
                .pax(&[("uid", b"1")])
                .file("b", "x")
                .global(&[("comment", b"all others end")])
                .file("c", "x")
                .end(),
            Same,
        ),
        (
            "Solaris's type",
            new()
                .member(Header::new(b'X', "x"), pax_records(&[("path", b"b")]))
                .file("a", "")
                .end(),
            Same,
        ),
        (
            "a pax name after a long name",
            new()
                .member(Header::gnu(b'L', "././@LongLink"), "long")
                .pax(&[("path", b"b")])
                .file("a", "")
                .end(),
            Same,
        ),
        (
            "no length",
            new().member(Header::new(b'x', "x"), "path=b\n").file("a", "").end(),
            Refused("a: damaged: its pax header has a record without a length"),
        ),
        (
            "a length beyond the header",
            new().member(Header::new(b'x', "x"), "99 path=b\n").file("a", "").end(),
            Refused("longer than the header"),
        ),
        (
            "no newline",
            new().member(Header::new(b'x', "x"), "10 path=bcd").file("a", "").end(),
            Refused("does not end in a newline"),
        ),
        (
            "no number",
            new().pax(&[("uid", b"root")]).file("a", "").end(),
            Refused("invalid uid: root"),
        ),
        (
            "an empty value",
            new().pax(&[("uid", b"1"), ("uid", b"")]).file("a", "").end(),
            Other("in POSIX it takes back earlier values; GNU tar reports an error"),
        ),
        (
            "a large header",
            new().header(Header::new(b'x', "x").size(100 << 20)).end(),
            Refused("its pax header has more than 16777216 bytes"),
        ),
    ]);
}

//! Members of the same name, and names and links that lead elsewhere.

use super::{Noted, Refused, Same, check, new};
use crate::raw::Header;
use crate::snapshot::by_overcoat;

#[test]
fn later_members_replace_earlier_ones() {
    check(vec![
        ("a file", new().file("a", "1").file("a", "22").end(), Same),
        (
            "a directory",
            new()
                .header(Header::new(b'5', "a").mode(0o700).ids(1, 1))
                .file("a/b", "x")
                .header(Header::new(b'5', "a").mode(0o2750).ids(2, 2))
                .file("a/c", "x")
                .end(),
            Same,
        ),
        ("a file by a directory", new().file("a", "1").dir("a").file("a/b", "x").end(), Same),
        ("an empty directory by a file", new().dir("a").file("a", "1").end(), Same),
        ("an empty directory by a link", new().dir("a").dir("b").symlink("a", "b").end(), Same),
        (
            "a full directory by a file",
            new().dir("a").file("a/b", "x").file("a", "1").end(),
            Refused("a: an earlier member made it a directory"),
        ),
        (
            "a link to a directory by a directory",
            new().dir("d").symlink("a", "d").dir("a").file("a/b", "x").end(),
            Same,
        ),
        ("a link by a file", new().file("f", "1").symlink("a", "f").file("a", "2").end(), Same),
        (
            "an absolute link by another one",
            new().symlink("a", "/1").symlink("a", "/2").symlink("a", "../3").end(),
            Noted("a: of two symbolic links of this name"),
        ),
        (
            "a relative link by another one",
            new().symlink("a", "1").symlink("a", "/2").symlink("a", "3").symlink("a", "4").end(),
            Same,
        ),
        ("an absolute link by a file", new().symlink("a", "/etc").file("a", "2").end(), Same),
        (
            "one of two names",
            new().file("a", "1").hard_link("b", "a").file("a", "2").hard_link("c", "a").end(),
            Same,
        ),
        (
            "a name by another one of the same file",
            new().file("a", "1").hard_link("b", "a").hard_link("b", "a").hard_link("a", "b").end(),
            Same,
        ),
        (
            "devices and pipes",
            new()
                .header(Header::new(b'6', "a"))
                .header(Header::new(b'4', "a"))
                .symlink("a", "b")
                .header(Header::new(b'6', "a"))
                .end(),
            Same,
        ),
        (
            "the root",
            new()
                .header(Header::new(b'5', "./").mode(0o700).ids(1, 2))
                .header(Header::new(b'5', "/").mode(0o711).ids(3, 4))
                .end(),
            Same,
        ),
        ("the root by a file", new().file("./", "").file(".", "").end(), Refused("root directory")),
    ]);
}

#[test]
fn names_and_links_stay_in_the_root() {
    check(vec![
        ("absolute names", new().dir("/a/").file("//a//b", "x").file("/c", "x").end(), Same),
        ("dots", new().file("./a/./b", "x").file(".//c", "x").end(), Same),
        ("missing directories", new().file("a/b/c", "x").end(), Same),
        ("directories that come late", new().file("a/b", "x").dir("a").end(), Same),
        ("a way up", new().file("a/../b", "x").end(), Refused("a/../b: its name contains `..`")),
        ("a way out", new().file("../b", "x").end(), Refused("its name contains `..`")),
        (
            "below a link",
            new().dir("d").symlink("l", "d").file("l/a", "x").file("l/n/b", "x").end(),
            Same,
        ),
        (
            "below links of links",
            new()
                .dir("d")
                .symlink("l", "d")
                .symlink("d/m", "./e/")
                .dir("d/e")
                .file("l/m/a", "x")
                .end(),
            Same,
        ),
        (
            "below an absolute link",
            new().dir("d").symlink("l", "/d").file("l/a", "x").end(),
            Refused("l/a: l is a symbolic link to /d"),
        ),
        (
            "below a link with a way up",
            new().dir("d").dir("e").symlink("d/l", "../e").file("d/l/a", "x").end(),
            Refused("d/l/a: d/l is a symbolic link to ../e"),
        ),
        (
            "below a link to nothing",
            new().symlink("l", "d").file("l/a", "x").end(),
            Refused("l/a: it is below a symbolic link to d"),
        ),
        (
            "below a link to a file",
            new().file("d", "x").symlink("l", "d").file("l/a", "x").end(),
            Refused("l/a: d is not a directory"),
        ),
        (
            "below a file",
            new().file("d", "x").file("d/a", "x").end(),
            Refused("d is not a directory"),
        ),
        (
            "below links in a circle",
            new().symlink("a", "b").symlink("b", "a").file("a/x", "x").end(),
            Refused("a/x: its name leads through more than 40"),
        ),
        (
            "hard links to all kinds",
            new()
                .symlink("s", "target")
                .symlink("t", "/target")
                .header(Header::new(b'4', "d"))
                .header(Header::new(b'6', "p"))
                .hard_link("1", "s")
                .hard_link("2", "t")
                .hard_link("3", "d")
                .hard_link("4", "p")
                .hard_link("5", "2")
                .end(),
            Same,
        ),
        (
            "hard links to links that are replaced",
            new()
                .symlink("s", "t")
                .hard_link("1", "s")
                .file("s", "x")
                .symlink("a", "/t")
                .hard_link("2", "a")
                .file("a", "x")
                .symlink("b", "/t")
                .hard_link("3", "b")
                .file("3", "y")
                .end(),
            Same,
        ),
        (
            "a hard link to a link that becomes a directory",
            new().symlink("a", "/t").hard_link("b", "a").dir("a").end(),
            Refused("b: a hard link to a, a directory"),
        ),
        (
            "spellings of targets",
            new()
                .dir("d")
                .file("d/a", "x")
                .symlink("l", "d")
                .hard_link("1", "/d/a")
                .hard_link("2", "./d//a")
                .hard_link("3", "l/a")
                .hard_link("4", "../../d/a")
                .hard_link("5", "x/../d/a")
                .end(),
            Same,
        ),
        ("a link to itself", new().file("a", "x").hard_link("a", "a").end(), Same),
        (
            "a link to something that comes later",
            new().hard_link("b", "a").file("a", "x").end(),
            Refused("b: a hard link to a, which is not in the archive before it"),
        ),
        (
            "a link to a directory",
            new().dir("d").hard_link("b", "d").end(),
            Refused("b: a hard link to d, a directory"),
        ),
        ("a link to nothing", new().symlink("a", "").end(), Refused("a: a symbolic link without")),
    ]);
}

/// GNU tar makes these, but no program can ask for such a path, and no archive can hold it.
#[test]
fn links_do_not_lead_deeper_than_a_path_can() {
    // Names of 4,000 bytes, one below the other.
    let deep = |name: &str| vec![name; 2000].join("/");
    let long = |kind| Header::gnu(kind, "long");
    let archive = new()
        .member(long(b'L'), deep("d"))
        .dir("d")
        .member(long(b'K'), deep("d"))
        .symlink("l", "d")
        .member(long(b'L'), format!("l/{}", deep("e")))
        .file("l", "x")
        .end();
    let error = by_overcoat(&archive).unwrap_err();
    assert!(error.contains("the path has 4097 bytes"), "{error}");
}

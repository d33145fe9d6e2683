//! Extended attributes and access lists.

use std::collections::BTreeMap;

use fs_model::acl::{ACCESS, AccountIds, DEFAULT};

use super::{Noted, Other, Same, check, new};
use crate::raw::Header;

const NAMED: &str = "user::rw-\nuser:daemon:rw-\ngroup::r--\nmask::rw-\nother::---\n";

#[test]
fn attributes_and_access_lists_are_restored() {
    let list = NAMED.as_bytes();
    let numbered = b"user::rw-,user:somebody:rw-:12345,group::r--,mask::rw-,other::---";
    let unknown = b"user::rw-\nuser:no-such-user:rw-\ngroup::r--\nmask::rw-\nother::---\n";
    let default = b"user::rwx\nuser:7:rwx\ngroup::r-x\nmask::rwx\nother::---\n";
    let passwd = "root:x:0:0::/root:/bin/sh\nno-such-user:x:77:77::/:/bin/sh\n";
    let value = fs_model::acl::TextAcl::parse(list).unwrap();
    let users = BTreeMap::from([("daemon".to_owned(), 1)]);
    let ids = AccountIds { users, ..AccountIds::default() };
    let value = value.resolve(&ids, |_| ()).unwrap().to_value();
    let snapshots = check(vec![
        (
            "lists of files and directories",
            new()
                .pax(&[("SCHILY.acl.access", list), ("SCHILY.acl.default", default)])
                .header(Header::new(b'5', "a").mode(0o2775))
                .file("a/b", "x")
                .dir("a/c")
                .header(Header::new(b'6', "a/d"))
                .symlink("a/e", "b")
                .pax(&[("SCHILY.acl.access", list), ("SCHILY.acl.default", default)])
                .file("f", "x")
                .end(),
            Same,
        ),
        (
            "a directory again, without lists",
            new()
                .pax(&[("SCHILY.acl.access", list), ("SCHILY.acl.default", default)])
                .dir("a")
                .file("a/b", "x")
                .dir("a")
                .end(),
            Same,
        ),
        (
            "a list equal to a mode",
            new()
                .pax(&[("SCHILY.acl.access", b"user::r--,group::-w-,other::--x")])
                .file("a", "x")
                .end(),
            Same,
        ),
        (
            "a number beside the name",
            new().pax(&[("SCHILY.acl.access", numbered)]).file("a", "x").end(),
            Other("GNU tar looks for the name on the host"),
        ),
        (
            "a user of the archive",
            new()
                .pax(&[("SCHILY.acl.access", unknown)])
                .file("a", "x")
                .file("etc/passwd", passwd)
                .end(),
            Other("GNU tar looks for the name on the host"),
        ),
        (
            "an unknown user",
            new().pax(&[("SCHILY.acl.access", unknown)]).file("a", "x").end(),
            Other("GNU tar leaves the whole list out"),
        ),
        (
            "an invalid list",
            new().pax(&[("SCHILY.acl.access", b"user::rw-")]).file("a", "x").end(),
            Noted("a: its ACL is left out, because it is not valid"),
        ),
        (
            "a list as an attribute",
            new().pax(&[("SCHILY.xattr.system.posix_acl_access", &value)]).file("a", "x").end(),
            Other("GNU tar --acls takes it away again"),
        ),
        (
            "an attribute of libarchive alone",
            new().pax(&[("LIBARCHIVE.xattr.user.a%20b", b"AAo")]).file("a", "x").end(),
            Other("GNU tar does not know it"),
        ),
        (
            "attributes of symbolic links and pipes",
            new()
                .pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.trusted.a", b"1")])
                .symlink("a", "b")
                .pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.security.a", b"1")])
                .header(Header::new(b'6', "c"))
                .end(),
            Noted("a: its attribute user.a is left out"),
        ),
        (
            "attributes that no file system has",
            new()
                .pax(&[
                    ("SCHILY.xattr.unknown.a", b"1"),
                    (&format!("SCHILY.xattr.user.{}", "n".repeat(300)), b"1"),
                    ("SCHILY.xattr.user.large", &[b'x'; 70_000]),
                    ("SCHILY.xattr.user.", b"1"),
                    ("SCHILY.xattr.user.kept", b"1"),
                ])
                .file("a", "x")
                .end(),
            Noted("a: its attribute unknown.a is left out"),
        ),
        (
            "a capability of a file that gets an owner",
            new()
                .pax(&[(
                    "SCHILY.xattr.security.capability",
                    &[1, 0, 0, 2, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                )])
                .member(Header::new(b'0', "a").mode(0o4755).ids(1, 1), "x")
                .end(),
            Same,
        ),
    ]);
    let object = |index: usize| snapshots[index].as_ref().unwrap()[&b"a"[..]].clone();
    let list_of = |index: usize, name: &[u8]| {
        let value = object(index).xattrs.get(name).cloned();
        value.map(|value| fs_model::acl::Acl::parse(&value).unwrap().to_text())
    };
    let named = |id: u32| format!("user::rw-,user:{id}:rw-,group::r--,mask::rw-,other::---");
    assert_eq!(list_of(0, ACCESS), Some(named(1)));
    assert!(list_of(0, DEFAULT).is_some());
    assert_eq!(list_of(1, ACCESS), None);
    assert_eq!(list_of(3, ACCESS), Some(named(12345)));
    assert_eq!(list_of(4, ACCESS), Some(named(77)));
    assert_eq!(list_of(5, ACCESS), Some("user::rw-,group::r--,mask::rw-,other::---".to_owned()));
    assert_eq!(list_of(7, ACCESS), Some(named(1)));
    assert_eq!(object(8).xattrs[&b"user.a b"[..]], b"\0\n");
}

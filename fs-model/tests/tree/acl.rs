//! Access lists and modes.

use std::sync::Arc;

use fs_model::FsError;
use fs_model::acl::{self, Acl};
use fs_model::tree::{NewNode, SetAttr, Tree, TreeOptions, XattrFlags, XattrSupport};

use crate::behaviour::{DIR, FILE, base, hold, tree};

/// Lists as the kernel encodes them: tag, rights and id of each entry.
fn encoded(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&may.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// `user::rwx,user:7:rwx,group::r-x,mask::rwx,other::r-x` but for the mask, which is given.
fn for_user_7(mask: u16) -> Vec<u8> {
    let no = u32::MAX;
    encoded(&[(1, 7, no), (2, 7, 7), (4, 5, no), (0x10, mask, no), (0x20, 5, no)])
}

#[test]
fn an_access_list_and_the_mode_follow_each_other() {
    let tree = tree();
    for path in ["dir/file", "dir/sub"] {
        let ino = hold(&tree, path);
        tree.set_xattr(ino, acl::ACCESS, &for_user_7(7), XattrFlags::Any).unwrap();
        assert_eq!(tree.attr(ino).unwrap().mode, 0o775);
        let set = SetAttr { mode: Some(0o4740), ..SetAttr::default() };
        tree.set_attr(ino, &set).unwrap();
        let list = Acl::parse(&tree.xattr(ino, acl::ACCESS).unwrap()).unwrap();
        assert_eq!(list.to_text(), "user::rwx,user:7:rwx,group::r-x,mask::r--,other::---");
        // One that says no more than a mode is a mode.
        let no = u32::MAX;
        let plain = encoded(&[(1, 6, no), (4, 4, no), (0x20, 0, no)]);
        tree.set_xattr(ino, acl::ACCESS, &plain, XattrFlags::Any).unwrap();
        assert_eq!(tree.attr(ino).unwrap().mode, 0o4640);
        assert!(matches!(tree.xattr(ino, acl::ACCESS), Err(FsError::NoData)));
        let bad = tree.set_xattr(ino, acl::ACCESS, b"nonsense", XattrFlags::Any);
        assert!(matches!(bad, Err(FsError::Invalid)));
    }
    tree.audit().unwrap();
}

#[test]
fn a_default_access_list_is_handed_down_in_place_of_the_umask() {
    let tree = tree();
    let dir = hold(&tree, "dir");
    let masked = |node| NewNode { umask: 0o077, ..node };
    let before = tree.make(dir, b"before", &masked(FILE)).unwrap();
    assert_eq!(before.attr.mode, 0o600);
    tree.set_xattr(dir, acl::DEFAULT, &for_user_7(7), XattrFlags::Any).unwrap();
    assert_eq!(tree.attr(dir).unwrap().mode, 0o755, "it says nothing of the directory itself");

    let file = tree.make(dir, b"new", &masked(FILE)).unwrap();
    assert_eq!(file.attr.mode, 0o644);
    let list = Acl::parse(&tree.xattr(file.ino, acl::ACCESS).unwrap()).unwrap();
    assert_eq!(list.to_text(), "user::rw-,user:7:rwx,group::r-x,mask::r--,other::r--");
    assert!(tree.xattr(file.ino, acl::DEFAULT).is_err());

    let sub = tree.make(dir, b"newdir", &masked(DIR)).unwrap();
    assert_eq!(*tree.xattr(sub.ino, acl::DEFAULT).unwrap(), *for_user_7(7));
    let link = NewNode::symlink(b"new", 0, 0);
    let link = tree.make(dir, b"link", &link).unwrap();
    assert!(tree.xattrs(link.ino).unwrap().is_empty());
    tree.audit().unwrap();
}

#[test]
fn there_are_no_access_lists_where_the_output_has_none() {
    let layers = vec![Arc::new(base()) as Arc<dyn fs_model::layer::Layer>];
    let options = TreeOptions { upper_limit: Some(u64::MAX), xattrs: XattrSupport::WithoutAcls };
    let tree = Tree::new(layers, options).unwrap();
    let ino = hold(&tree, "dir");
    for name in [acl::ACCESS, acl::DEFAULT] {
        let set = tree.set_xattr(ino, name, &for_user_7(7), XattrFlags::Any);
        assert!(matches!(set, Err(FsError::NotSupported)));
        assert!(matches!(tree.remove_xattr(ino, name), Err(FsError::NotSupported)));
    }
    tree.set_xattr(ino, b"user.x", b"1", XattrFlags::Any).unwrap();
}

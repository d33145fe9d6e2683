//! Tests of ACLs and modes.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs_model::FsError;
use fs_model::acl::{self, Acl};
use fs_model::delta::Contents;
use fs_model::tree::{MknodArgs, SetAttr, Tree, TreeOptions, XattrFlags, XattrSupport};

use crate::behaviour::{DIR, FILE, base, hold, tree};
use crate::layer::{Data, Node};

/// Encodes a list as the kernel does: tag, permissions and id of each entry.
fn encoded(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, may, id) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&may.to_le_bytes());
        value.extend_from_slice(&id.to_le_bytes());
    }
    value
}

/// Returns `user::rwx,user:7:rwx,group::r-x,mask::rwx,other::r-x` with another mask.
fn for_user_7(mask: u16) -> Vec<u8> {
    let no = u32::MAX;
    encoded(&[(1, 7, no), (2, 7, 7), (4, 5, no), (0x10, mask, no), (0x20, 5, no)])
}

#[test]
fn access_list_and_mode_are_kept_consistent() {
    let tree = tree();
    for path in ["dir/file", "dir/sub"] {
        let ino = hold(&tree, path);
        tree.set_xattr(ino, acl::ACCESS, &for_user_7(7), XattrFlags::Any).unwrap();
        assert_eq!(tree.attr(ino).unwrap().mode, 0o775);
        let set = SetAttr { mode: Some(0o4740), ..SetAttr::default() };
        tree.set_attr(ino, &set).unwrap();
        let list = Acl::parse(&tree.xattr(ino, acl::ACCESS).unwrap()).unwrap();
        assert_eq!(list.to_text(), "user::rwx,user:7:rwx,group::r-x,mask::r--,other::---");
        // A list that is equivalent to a mode is not stored.
        let no = u32::MAX;
        let plain = encoded(&[(1, 6, no), (4, 4, no), (0x20, 0, no)]);
        tree.set_xattr(ino, acl::ACCESS, &plain, XattrFlags::Any).unwrap();
        assert_eq!(tree.attr(ino).unwrap().mode, 0o4640);
        assert!(matches!(tree.xattr(ino, acl::ACCESS), Err(FsError::NoData)));
        let bad = tree.set_xattr(ino, acl::ACCESS, b"nonsense", XattrFlags::Any);
        assert!(matches!(bad, Err(FsError::Invalid)));
    }
    tree.check_invariants().unwrap();
}

#[test]
fn default_access_list_is_inherited_and_replaces_the_umask() {
    let tree = tree();
    let dir = hold(&tree, "dir");
    let masked = |node| MknodArgs { umask: 0o077, ..node };
    let before = tree.mknod(dir, b"before", &masked(FILE)).unwrap();
    assert_eq!(before.attr.mode, 0o600);
    tree.set_xattr(dir, acl::DEFAULT, &for_user_7(7), XattrFlags::Any).unwrap();
    assert_eq!(tree.attr(dir).unwrap().mode, 0o755, "it does not apply to the directory itself");

    let file = tree.mknod(dir, b"new", &masked(FILE)).unwrap();
    assert_eq!(file.attr.mode, 0o644);
    let list = Acl::parse(&tree.xattr(file.ino, acl::ACCESS).unwrap()).unwrap();
    assert_eq!(list.to_text(), "user::rw-,user:7:rwx,group::r-x,mask::r--,other::r--");
    assert!(tree.xattr(file.ino, acl::DEFAULT).is_err());

    let sub = tree.mknod(dir, b"newdir", &masked(DIR)).unwrap();
    assert_eq!(*tree.xattr(sub.ino, acl::DEFAULT).unwrap(), *for_user_7(7));
    let link = MknodArgs::symlink(b"new", 0, 0);
    let link = tree.mknod(dir, b"link", &link).unwrap();
    assert!(tree.xattrs(link.ino).unwrap().is_empty());
    tree.check_invariants().unwrap();
}

#[test]
fn hidden_access_list_only_removes_permissions_from_the_mode() {
    for xattrs in [XattrSupport::None, XattrSupport::WithoutAcls] {
        let mut layer = base();
        let listed = Node { xattrs: vec![], ..layer.nodes[0].clone() };
        let attr = fs_model::Attr { mode: 0o775, ..listed.attr };
        let xattrs_of = vec![(acl::ACCESS.into(), for_user_7(7).into())];
        let data = Data::Directory { entries: BTreeMap::new(), opaque: false };
        layer.add(0, b"of_layer", Node { attr, data, xattrs: xattrs_of });
        let options = TreeOptions { upper_limit: Some(u64::MAX), xattrs };
        let tree = Tree::new(vec![Arc::new(layer)], options).unwrap();
        let mode = |ino| tree.attr(ino).unwrap().mode;
        let chmod = |ino, mode| {
            let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
            tree.set_attr(ino, &set).unwrap().mode
        };

        let of_layer = hold(&tree, "of_layer");
        assert_eq!(mode(of_layer), 0o755, "group::r-x and mask::rwx");
        assert!(tree.delta().unwrap().entries.is_empty());
        assert_eq!(chmod(of_layer, 0o771), 0o751, "the group bits of the mode are the mask");

        let (dir, file) = (hold(&tree, "dir"), hold(&tree, "dir/file"));
        for ino in [dir, file] {
            tree.set_xattr(ino, acl::ACCESS, &for_user_7(7), XattrFlags::Any).unwrap();
            assert_eq!(mode(ino), 0o755);
            assert!(tree.xattr(ino, acl::ACCESS).is_err(), "it is hidden");
        }
        assert_eq!(chmod(file, 0o664), 0o644);
        assert_eq!(chmod(file, 0o600), 0o600);

        // user::rwx,user:7:rwx,group::---,mask::rwx,other::---
        let no = u32::MAX;
        let list = [(1, 7, no), (2, 7, 7), (4, 0, no), (0x10, 7, no), (0x20, 0, no)];
        tree.set_xattr(dir, acl::DEFAULT, &encoded(&list), XattrFlags::Any).unwrap();
        let made = tree.mknod(dir, b"new", &MknodArgs { umask: 0, ..FILE }).unwrap();
        assert_eq!(made.attr.mode, 0o600, "a new object gets no more than the list allows");

        let shown = xattrs == XattrSupport::WithoutAcls;
        tree.set_xattr(file, b"user.x", b"1", XattrFlags::Any).unwrap();
        assert_eq!(tree.xattr(file, b"user.x").is_ok(), shown);
        let lost = Contents::xattrs(&tree, file).unwrap();
        assert_eq!(lost.len(), 2, "both are kept and reported");
        tree.check_invariants().unwrap();
    }
}

#[test]
fn hidden_attributes_are_reported_separately_from_the_entries() {
    let layers = vec![Arc::new(base()) as Arc<dyn fs_model::layer::Layer>];
    let options = TreeOptions { upper_limit: Some(u64::MAX), xattrs: XattrSupport::None };
    let tree = Tree::new(layers, options).unwrap();
    let file = hold(&tree, "dir/file");
    tree.set_xattr(file, b"security.capability", b"1", XattrFlags::Any).unwrap();
    let delta = tree.delta().unwrap();
    assert!(delta.entries.is_empty(), "the output cannot store it");
    assert_eq!(&*delta.hidden[0].path, b"dir/file");
    assert_eq!(delta.hidden[0].names, [Box::from(&b"security.capability"[..])]);
    let again = tree.set_xattr(file, b"security.capability", b"2", XattrFlags::Create);
    assert!(matches!(again, Err(FsError::Exists)));
    tree.remove_xattr(file, b"security.capability").unwrap();
    assert!(matches!(tree.remove_xattr(file, b"security.capability"), Err(FsError::NoData)));
    assert!(tree.delta().unwrap().hidden.is_empty());
}

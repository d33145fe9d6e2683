//! ACLs, which are set when the whole archive is read: until then members created in a directory
//! would inherit its default ACL, and the names of users are not known.

use std::collections::HashMap;

use fs_model::acl::{self, AccountIds, Acl, TextAcl};
use fs_model::tar::Member;
use fs_model::tree::XattrFlags;
use fs_model::{FileType, Ino, Tree};

use super::super::{RootImportError, at, text};
use crate::image::view::accounts::Accounts;

/// Maximum size of the ACLs that are kept until the end, in bytes.
const MAX_ACL_BYTES: usize = 64 << 20;

/// The ACLs of an archive.
#[derive(Default)]
pub(super) struct PendingAcls {
    kept: HashMap<Ino, PendingAcl>,
    bytes: usize,
}

/// The ACLs of one file. Holds a reference to its inode.
struct PendingAcl {
    path: Box<[u8]>,
    access: Option<AclSource>,
    default: Option<AclSource>,
}

enum AclSource {
    /// The text form.
    Text(Vec<u8>),
    /// The value of an extended attribute.
    Value(Box<[u8]>),
}

impl AclSource {
    fn len(&self) -> usize {
        match self {
            AclSource::Text(text) => text.len(),
            AclSource::Value(value) => value.len(),
        }
    }
}

impl PendingAcls {
    /// Keeps the ACLs of `member`, replacing those of an earlier member for the same inode. Returns
    /// whether it keeps the caller's reference to the inode, which keeps the number valid when the
    /// name is removed.
    pub(super) fn keep(
        &mut self,
        tree: &Tree,
        member: &Member,
        kind: FileType,
        ino: Ino,
        path: &[u8],
    ) -> Result<bool, RootImportError> {
        let list = |words: &Option<Vec<u8>>, name: &[u8]| {
            words.clone().map(AclSource::Text).or_else(|| {
                let value = member.xattrs.iter().rfind(|(key, _)| **key == *name);
                value.map(|(_, value)| AclSource::Value(value.clone()))
            })
        };
        let access = list(&member.access_list, acl::ACCESS);
        let is_directory = kind == FileType::Directory;
        let default = list(&member.default_list, acl::DEFAULT).filter(|_| is_directory);
        if access.is_none() && default.is_none() {
            if self.kept.remove(&ino).is_some() {
                tree.forget(ino, 1);
            }
            return Ok(false);
        }
        let lists = access.iter().chain(&default);
        self.bytes +=
            path.len() + lists.map(AclSource::len).sum::<usize>() + size_of::<PendingAcl>();
        if self.bytes > MAX_ACL_BYTES {
            let what = "it and the members before it have more than 64 MiB of ACLs";
            return Err(RootImportError::Invalid { path: text(path), what });
        }
        let kept = PendingAcl { path: path.into(), access, default };
        Ok(self.kept.insert(ino, kept).is_none())
    }

    /// Sets all kept ACLs.
    pub(super) fn apply(
        self,
        tree: &Tree,
        report: &mut dyn FnMut(String),
    ) -> Result<(), RootImportError> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let accounts = Accounts::ids_in(tree).map_err(at(b"etc/passwd"))?;
        let mut kept: Vec<_> = self.kept.into_iter().collect();
        kept.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
        for (ino, PendingAcl { path, access, default }) in kept {
            for (name, list) in [(acl::ACCESS, access), (acl::DEFAULT, default)] {
                let Some(list) = list else { continue };
                match resolve_acl(&list, &accounts, &path, report) {
                    Some(acl) => {
                        let set = tree.set_xattr(ino, name, &acl.to_value(), XattrFlags::Any);
                        set.map_err(at(&path))?;
                    }
                    None => report(format!(
                        "{}: its ACL is left out, because it is not valid",
                        text(&path)
                    )),
                }
            }
            tree.forget(ino, 1);
        }
        Ok(())
    }
}

/// Resolves the names of users and groups in an ACL; `None` for an invalid ACL.
fn resolve_acl(
    list: &AclSource,
    accounts: &AccountIds,
    path: &[u8],
    report: &mut dyn FnMut(String),
) -> Option<Acl> {
    let list = match list {
        AclSource::Text(list) => TextAcl::parse(list)?,
        AclSource::Value(value) => return Acl::parse(value),
    };
    list.resolve(accounts, |name| {
        report(format!(
            "{}: its ACL names {}, which is not in the archive's /etc/passwd or /etc/group; the \
             entry is left out",
            text(path),
            text(name)
        ));
    })
}

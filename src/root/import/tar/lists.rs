//! ACLs, which are set when the whole archive is read: until then members created in a directory
//! would inherit its default ACL, and the names of users are not known.

use std::collections::{BTreeMap, HashMap};

use fs_model::acl::{self, Acl, TextAcl};
use fs_model::tar::Member;
use fs_model::tree::{Follow, XattrFlags};
use fs_model::{FileType, FsError, Ino, Tree};

use super::super::{RootImportError, at, text};
use crate::image::view::accounts::Accounts;

/// Maximum size of the ACLs that are kept until the end, in bytes.
const MAX_ACL_BYTES: usize = 64 << 20;
/// Maximum size of an account file, in bytes.
const MAX_ACCOUNT_FILE_BYTES: u64 = 16 << 20;

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
        let accounts = accounts(tree)?;
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
    accounts: &Accounts,
    path: &[u8],
    report: &mut dyn FnMut(String),
) -> Option<Acl> {
    let list = match list {
        AclSource::Text(list) => TextAcl::parse(list)?,
        AclSource::Value(value) => return Acl::parse(value),
    };
    let number = |numbers: &BTreeMap<String, u32>, name: &[u8]| {
        std::str::from_utf8(name).ok().and_then(|name| numbers.get(name)).copied()
    };
    list.resolve(
        |name| number(accounts.users(), name),
        |name| number(accounts.groups(), name),
        |name| {
            report(format!(
                "{}: its ACL names {}, which is not in the archive's /etc/passwd or /etc/group; \
                 the entry is left out",
                text(path),
                text(name)
            ));
        },
    )
}

/// Returns the accounts of the imported root. Without account files they are those with fixed
/// numbers in Debian. The host's are never used, because the tree must not depend on the host.
fn accounts(tree: &Tree) -> Result<Accounts, RootImportError> {
    let (passwd, group) = (file(tree, b"etc/passwd")?, file(tree, b"etc/group")?);
    Ok(Accounts::parse(
        passwd.as_deref().unwrap_or(FIXED_USERS.as_bytes()),
        group.as_deref().unwrap_or(FIXED_GROUPS.as_bytes()),
    ))
}

/// Reads a regular file, up to the limit for account files.
fn file(tree: &Tree, path: &[u8]) -> Result<Option<Vec<u8>>, RootImportError> {
    let resolve_acl = match tree.resolve(path, Follow::Yes) {
        Ok(resolve_acl) => resolve_acl,
        Err(FsError::NotFound | FsError::NotADirectory | FsError::Loop) => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    let Some((ino, attr)) = resolve_acl.object.filter(|(_, attr)| attr.kind == FileType::Regular)
    else {
        return Ok(None);
    };
    let mut content = vec![0; attr.size.min(MAX_ACCOUNT_FILE_BYTES) as usize];
    let length = tree.read(ino, 0, &mut content).map_err(at(path))?;
    content.truncate(length);
    Ok(Some(content))
}

/// The users of Debian's base-passwd.
const FIXED_USERS: &str = "\
root::0\ndaemon::1\nbin::2\nsys::3\nsync::4\ngames::5\nman::6\nlp::7\nmail::8\nnews::9\nuucp::10\n\
proxy::13\nwww-data::33\nbackup::34\nlist::38\nirc::39\nnobody::65534\n";
/// The groups of Debian's base-passwd.
const FIXED_GROUPS: &str = "\
root::0\ndaemon::1\nbin::2\nsys::3\nadm::4\ntty::5\ndisk::6\nlp::7\nmail::8\nnews::9\nuucp::10\n\
man::12\nproxy::13\nkmem::15\ndialout::20\nfax::21\nvoice::22\ncdrom::24\nfloppy::25\ntape::26\n\
sudo::27\naudio::29\ndip::30\nwww-data::33\nbackup::34\noperator::37\nlist::38\nirc::39\nsrc::40\n\
shadow::42\nutmp::43\nvideo::44\nsasl::45\nplugdev::46\nstaff::50\ngames::60\nusers::100\n\
nogroup::65534\n";

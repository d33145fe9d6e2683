//! Access lists, which objects get when the whole archive was read: until then members made
//! in a directory would inherit its default list, and the names of users are not known yet.

use std::collections::{BTreeMap, HashMap};

use fs_model::acl::{self, Acl, TextAcl};
use fs_model::tar::Member;
use fs_model::tree::{Follow, XattrFlags};
use fs_model::{FileType, FsError, Ino, Tree};

use super::super::{ImportError, at, text};
use crate::look::accounts::Accounts;

/// Bytes of access lists that are kept until the end.
const MAX_KEPT: usize = 64 << 20;
/// The most of an account file that is read, in bytes.
const MAX_ACCOUNTS: u64 = 16 << 20;

/// The access lists of an archive.
#[derive(Default)]
pub(super) struct Lists {
    kept: HashMap<Ino, Kept>,
    bytes: usize,
}

/// The lists of one object, which holds a reference of it.
struct Kept {
    path: Box<[u8]>,
    access: Option<List>,
    default: Option<List>,
}

enum List {
    /// In words.
    Text(Vec<u8>),
    /// As the value of an attribute.
    Value(Box<[u8]>),
}

impl List {
    fn len(&self) -> usize {
        match self {
            List::Text(text) => text.len(),
            List::Value(value) => value.len(),
        }
    }
}

impl Lists {
    /// Keeps the lists of `member`, in place of those that an earlier member gave the object. Gives
    /// whether it took over the caller's reference of the object, which keeps its number valid when
    /// its name is removed.
    pub(super) fn keep(
        &mut self,
        tree: &Tree,
        member: &Member,
        kind: FileType,
        ino: Ino,
        path: &[u8],
    ) -> Result<bool, ImportError> {
        let list = |words: &Option<Vec<u8>>, name: &[u8]| {
            words.clone().map(List::Text).or_else(|| {
                let value = member.xattrs.iter().rfind(|(key, _)| **key == *name);
                value.map(|(_, value)| List::Value(value.clone()))
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
        self.bytes += path.len() + lists.map(List::len).sum::<usize>() + size_of::<Kept>();
        if self.bytes > MAX_KEPT {
            let what = "it and the members before it have more than 64 MiB of access lists";
            return Err(ImportError::Senseless { path: text(path), what });
        }
        let kept = Kept { path: path.into(), access, default };
        Ok(self.kept.insert(ino, kept).is_none())
    }

    /// Gives all objects their lists.
    pub(super) fn apply(
        self,
        tree: &Tree,
        report: &mut dyn FnMut(String),
    ) -> Result<(), ImportError> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let accounts = accounts(tree)?;
        let mut kept: Vec<_> = self.kept.into_iter().collect();
        kept.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
        for (ino, Kept { path, access, default }) in kept {
            for (name, list) in [(acl::ACCESS, access), (acl::DEFAULT, default)] {
                let Some(list) = list else { continue };
                match resolved(&list, &accounts, &path, report) {
                    Some(acl) => {
                        let set = tree.set_xattr(ino, name, &acl.to_value(), XattrFlags::Any);
                        set.map_err(at(&path))?;
                    }
                    None => report(format!(
                        "{}: its access list is left out, for it is not valid",
                        text(&path)
                    )),
                }
            }
            tree.forget(ino, 1);
        }
        Ok(())
    }
}

/// A list with numbers for users and groups; `None` for what is not a valid list.
fn resolved(
    list: &List,
    accounts: &Accounts,
    path: &[u8],
    report: &mut dyn FnMut(String),
) -> Option<Acl> {
    let list = match list {
        List::Text(list) => TextAcl::parse(list)?,
        List::Value(value) => return Acl::parse(value),
    };
    let number = |numbers: &BTreeMap<String, u32>, name: &[u8]| {
        std::str::from_utf8(name).ok().and_then(|name| numbers.get(name)).copied()
    };
    list.resolve(
        |name| number(accounts.users(), name),
        |name| number(accounts.groups(), name),
        |name| {
            report(format!(
                "{}: its access list names {}, which is not in the archive's /etc/passwd or \
                 /etc/group; the entry is left out",
                text(path),
                text(name)
            ));
        },
    )
}

/// The accounts of the root that was read. One without any has those that Debian gives fixed
/// numbers: the host's are never asked, for the tree must not depend on it.
fn accounts(tree: &Tree) -> Result<Accounts, ImportError> {
    let (passwd, group) = (file(tree, b"etc/passwd")?, file(tree, b"etc/group")?);
    Ok(Accounts::parse(
        passwd.as_deref().unwrap_or(FIXED_USERS.as_bytes()),
        group.as_deref().unwrap_or(FIXED_GROUPS.as_bytes()),
    ))
}

/// The content of a regular file, as far as account files are read.
fn file(tree: &Tree, path: &[u8]) -> Result<Option<Vec<u8>>, ImportError> {
    let resolved = match tree.resolve(path, Follow::Yes) {
        Ok(resolved) => resolved,
        Err(FsError::NotFound | FsError::NotADirectory | FsError::Loop) => return Ok(None),
        Err(error) => return Err(at(path)(error)),
    };
    let Some((ino, attr)) = resolved.object.filter(|(_, attr)| attr.kind == FileType::Regular)
    else {
        return Ok(None);
    };
    let mut content = vec![0; attr.size.min(MAX_ACCOUNTS) as usize];
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

//! User and group names from a root's `/etc/passwd` and `/etc/group` (passwd(5), group(5)). The
//! host's accounts are not used.

use std::collections::{BTreeMap, HashMap};

use fs_model::acl::AccountIds;
use fs_model::tree::Follow;
use fs_model::{FileType, FsError, Tree};

use super::{LookError, StackView, ViewNode};
use crate::text::escape::escape;

/// Maximum bytes read of each file.
const MAX_FILE_SIZE: usize = 16 << 20;

/// Users and groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    users: AccountNames,
    groups: AccountNames,
}

#[derive(Clone, Debug, Default)]
struct AccountNames {
    by_number: HashMap<u32, String>,
    numbers: BTreeMap<String, u32>,
}

impl Accounts {
    /// Reads the accounts of a root. Malformed lines are ignored.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn read(view: &StackView) -> Result<Accounts, LookError> {
        Ok(Accounts { users: names(view, b"etc/passwd")?, groups: names(view, b"etc/group")? })
    }

    /// Reads the ids of the accounts of a tree. Without account files they are those with fixed
    /// numbers in Debian. The host's are never used, because a root must not depend on the host.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn ids_in(tree: &Tree) -> Result<AccountIds, FsError> {
        let (passwd, group) = (file(tree, b"etc/passwd")?, file(tree, b"etc/group")?);
        let accounts = Accounts::parse(
            passwd.as_deref().unwrap_or(FIXED_USERS.as_bytes()),
            group.as_deref().unwrap_or(FIXED_GROUPS.as_bytes()),
        );
        Ok(AccountIds { users: accounts.users.numbers, groups: accounts.groups.numbers })
    }

    /// Parses the text of `passwd` and `group`. Malformed lines are ignored.
    pub(crate) fn parse(passwd: &[u8], group: &[u8]) -> Accounts {
        Accounts { users: AccountNames::parse(passwd), groups: AccountNames::parse(group) }
    }

    /// Returns the name of a user.
    pub(crate) fn user(&self, uid: u32) -> Option<&str> {
        self.users.by_number.get(&uid).map(String::as_str)
    }

    /// Returns the name of a group.
    pub(crate) fn group(&self, gid: u32) -> Option<&str> {
        self.groups.by_number.get(&gid).map(String::as_str)
    }

    /// Returns the name of a user for display, or the id if it has none.
    pub(crate) fn user_text(&self, uid: u32) -> String {
        self.user(uid).map_or_else(|| uid.to_string(), |name| escape(name.as_bytes()).into_owned())
    }

    /// Returns the name of a group for display, or the id if it has none.
    pub(crate) fn group_text(&self, gid: u32) -> String {
        self.group(gid).map_or_else(|| gid.to_string(), |name| escape(name.as_bytes()).into_owned())
    }

    /// Returns all users with their ids.
    pub(crate) fn users(&self) -> &BTreeMap<String, u32> {
        &self.users.numbers
    }

    /// Returns all groups with their ids.
    pub(crate) fn groups(&self) -> &BTreeMap<String, u32> {
        &self.groups.numbers
    }
}

fn names(view: &StackView, path: &[u8]) -> Result<AccountNames, LookError> {
    let Some(file) = view.find_following(path)?.filter(ViewNode::is_file) else {
        return Ok(AccountNames::default());
    };
    Ok(AccountNames::parse(&view.head(&file, MAX_FILE_SIZE)?))
}

impl AccountNames {
    fn parse(text: &[u8]) -> AccountNames {
        let mut names = AccountNames::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next())
                && let Ok(id) = id.parse()
                && !name.is_empty()
            {
                // For several names with one id, getpwuid(3) returns the first.
                names.by_number.entry(id).or_insert_with(|| name.to_owned());
                names.numbers.entry(name.to_owned()).or_insert(id);
            }
        }
        names
    }
}

/// Reads a regular file, up to the limit for account files.
fn file(tree: &Tree, path: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
    let resolved = match tree.resolve(path, Follow::Yes) {
        Ok(resolved) => resolved,
        Err(FsError::NotFound | FsError::NotADirectory | FsError::Loop) => return Ok(None),
        Err(error) => return Err(error),
    };
    let file = resolved.object.filter(|(_, attr)| attr.kind == FileType::Regular);
    let Some((ino, attr)) = file else { return Ok(None) };
    let mut content = vec![0; attr.size.min(MAX_FILE_SIZE as u64) as usize];
    let length = tree.read(ino, 0, &mut content)?;
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

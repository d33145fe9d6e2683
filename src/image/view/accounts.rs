//! User and group names from a root's `/etc/passwd` and `/etc/group` (passwd(5), group(5)). The
//! host's accounts are not used.

use std::collections::{BTreeMap, HashMap};

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

//! The names of users and groups, as a root's own `/etc/passwd` and `/etc/group` have them
//! (passwd(5), group(5)). The host's are never asked.

use std::collections::{BTreeMap, HashMap};

use super::{LookError, Node, View};

/// The most of a file that is read.
const MOST: usize = 16 << 20;

/// Users and groups.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    users: Names,
    groups: Names,
}

#[derive(Clone, Debug, Default)]
struct Names {
    by_number: HashMap<u32, String>,
    numbers: BTreeMap<String, u32>,
}

impl Accounts {
    /// Reads the accounts of a root; lines that make no sense are passed over.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn read(view: &View) -> Result<Accounts, LookError> {
        Ok(Accounts { users: names(view, b"etc/passwd")?, groups: names(view, b"etc/group")? })
    }

    /// The accounts in the text of `passwd` and `group`; lines that make no sense are passed over.
    pub fn parse(passwd: &[u8], group: &[u8]) -> Accounts {
        Accounts { users: Names::parse(passwd), groups: Names::parse(group) }
    }

    /// The user's name.
    pub fn user(&self, uid: u32) -> Option<&str> {
        self.users.by_number.get(&uid).map(String::as_str)
    }

    /// The group's name.
    pub fn group(&self, gid: u32) -> Option<&str> {
        self.groups.by_number.get(&gid).map(String::as_str)
    }

    /// All users with their numbers.
    pub fn users(&self) -> &BTreeMap<String, u32> {
        &self.users.numbers
    }

    /// All groups with their numbers.
    pub fn groups(&self) -> &BTreeMap<String, u32> {
        &self.groups.numbers
    }
}

fn names(view: &View, path: &[u8]) -> Result<Names, LookError> {
    let Some(file) = view.sought(path)?.filter(Node::is_file) else { return Ok(Names::default()) };
    Ok(Names::parse(&view.head(&file, MOST)?))
}

impl Names {
    fn parse(text: &[u8]) -> Names {
        let mut names = Names::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut fields = line.split(':');
            if let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next())
                && let Ok(id) = id.parse()
                && !name.is_empty()
            {
                // Of two names for one number, the first is what getpwuid gives.
                names.by_number.entry(id).or_insert_with(|| name.to_owned());
                names.numbers.entry(name.to_owned()).or_insert(id);
            }
        }
        names
    }
}

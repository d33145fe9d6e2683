//! The users and groups that exist when files name them.

use std::collections::BTreeSet;

use super::files::drop_in_nodes;
use super::inspector::Inspector;
use crate::check::PassError;
use crate::image::view::accounts::Accounts;

/// Directories of sysusers.d(5) by precedence. /run is empty until boot.
pub(super) const SYSUSERS_DIRS: [&str; 3] =
    ["etc/sysusers.d", "usr/local/lib/sysusers.d", "usr/lib/sysusers.d"];

/// Names of the accounts of a root, and of those that systemd-sysusers creates at boot.
pub(super) struct KnownAccounts {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl KnownAccounts {
    pub(super) fn read(inspector: &mut Inspector<'_>) -> Result<Self, PassError> {
        let accounts = Accounts::read(inspector.view)?;
        let mut known = KnownAccounts {
            users: accounts.users().keys().cloned().collect(),
            groups: accounts.groups().keys().cloned().collect(),
        };
        for node in drop_in_nodes(inspector.view, &SYSUSERS_DIRS, ".conf")? {
            let file = inspector.open(node)?;
            for (_, line) in file.entries(&['#']) {
                known.add(line);
            }
        }
        Ok(known)
    }

    /// Records the accounts of a line of sysusers.d.
    fn add(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace().map(|word| word.trim_matches('"').to_owned());
        let (kind, name, id) = (words.next(), words.next(), words.next());
        let Some(name) = name else { return };
        match kind.as_deref() {
            Some("u" | "u!") => {
                self.users.insert(name.clone());
                self.groups.insert(name);
            }
            Some("g") => drop(self.groups.insert(name)),
            // Both are created if they are missing.
            Some("m") => {
                self.users.insert(name);
                self.groups.extend(id);
            }
            _ => {}
        }
    }

    /// Returns whether a name or id is that of no user. In a root without accounts, all are known.
    pub(super) fn lacks_user(&self, name: &str) -> bool {
        lacks(&self.users, name)
    }

    /// Like [`KnownAccounts::lacks_user`], for a group.
    pub(super) fn lacks_group(&self, name: &str) -> bool {
        lacks(&self.groups, name)
    }
}

/// Numbers are ids, which need no account.
fn lacks(names: &BTreeSet<String>, name: &str) -> bool {
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    !names.is_empty() && !is_number && !names.contains(name)
}

//! The users and groups that exist when units and configuration name them: those of the account
//! files, and those that systemd-sysusers creates at boot (sysusers.d(5)).

use std::collections::BTreeSet;

use crate::image::view::accounts::Accounts;

/// Directories of sysusers.d by precedence. /run is empty until boot.
pub(super) const SYSUSERS_DIRS: [&str; 3] =
    ["etc/sysusers.d", "usr/local/lib/sysusers.d", "usr/lib/sysusers.d"];

/// Names of users and groups. In a root without accounts, all names count as known.
pub(super) struct KnownAccounts {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl KnownAccounts {
    pub(super) fn new(accounts: &Accounts) -> Self {
        KnownAccounts {
            users: accounts.users().keys().cloned().collect(),
            groups: accounts.groups().keys().cloned().collect(),
        }
    }

    /// Adds the accounts that a line of sysusers.d creates.
    pub(super) fn add_sysusers_line(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace().map(|word| word.trim_matches('"').to_owned());
        let (kind, name, group) = (words.next(), words.next(), words.next());
        let (user, group) = match kind.as_deref() {
            // A user with a group of the same name.
            Some("u" | "u!") => (name.clone(), name),
            Some("g") => (None, name),
            // A group member; both are created if missing.
            Some("m") => (name, group),
            _ => return,
        };
        self.users.extend(user);
        self.groups.extend(group);
    }

    /// Returns whether a user is unknown. Numbers are ids, which need no account.
    pub(super) fn lacks_user(&self, name: &str) -> bool {
        lacks(&self.users, name)
    }

    /// Like [`KnownAccounts::lacks_user`], for a group.
    pub(super) fn lacks_group(&self, name: &str) -> bool {
        lacks(&self.groups, name)
    }
}

fn lacks(names: &BTreeSet<String>, name: &str) -> bool {
    let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    !names.is_empty() && !is_number && !names.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysusers_lines_create_users_groups_or_both() {
        let mut known = KnownAccounts { users: BTreeSet::new(), groups: BTreeSet::new() };
        assert!(!known.lacks_user("many"), "a root without accounts");
        for line in ["u tool 5 \"A tool\"", "g many -", "m member crew", "# u none", "r - 5-9"] {
            known.add_sysusers_line(line);
        }
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(known.users, names(&["member", "tool"]));
        assert_eq!(known.groups, names(&["crew", "many", "tool"]));
        assert!(known.lacks_user("many") && !known.lacks_group("many") && !known.lacks_user("77"));
    }
}

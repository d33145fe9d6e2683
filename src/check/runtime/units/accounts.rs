//! The users and groups that units run as.

use std::collections::BTreeSet;

use super::memory_budget::{LINE_OVERHEAD, UnitMemoryBudget};
use crate::check::PassError;
use crate::check::context::{read_text, resolve};
use crate::image::view::accounts::Accounts;
use crate::image::view::{StackView, ViewNode};

/// Names of users and groups that exist or that systemd-sysusers creates.
pub(super) struct KnownAccounts {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl KnownAccounts {
    pub(super) fn read(
        view: &StackView,
        accounts: &Accounts,
        budget: &mut UnitMemoryBudget,
    ) -> Result<Self, PassError> {
        let mut known = KnownAccounts {
            users: accounts.users().keys().cloned().collect(),
            groups: accounts.groups().keys().cloned().collect(),
        };
        // systemd-sysusers creates these at boot: sysusers.d(5).
        for dir in ["etc/sysusers.d", "usr/lib/sysusers.d", "usr/local/lib/sysusers.d"] {
            let Some(dir) = resolve(view, dir.as_bytes())?.filter(ViewNode::is_dir) else {
                continue;
            };
            for node in view.children(&dir)? {
                let path = String::from_utf8_lossy(&node.path).into_owned();
                let text = read_text(view, &path)?;
                for line in text.lines() {
                    budget.take(LINE_OVERHEAD + line.len())?;
                    known.add_sysusers_line(line);
                }
            }
        }
        Ok(known)
    }

    /// Records the accounts that a line of sysusers.d creates.
    fn add_sysusers_line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (kind, name, group) = (words.next(), words.next(), words.next());
        let (user, group) = match kind {
            // A user with a group of the same name.
            Some("u" | "u!") => (name, name),
            Some("g") => (None, name),
            // A group member; both are created if missing.
            Some("m") => (name, group),
            _ => return,
        };
        self.users.extend(user.map(str::to_owned));
        self.groups.extend(group.map(str::to_owned));
    }

    /// Returns whether the name in a key is unknown. Without any accounts no name is unknown.
    pub(super) fn lacks(&self, key: &str, name: &str) -> bool {
        let known = if key == "User" { &self.users } else { &self.groups };
        !known.is_empty() && !known.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysusers_lines_create_users_groups_or_both() {
        let mut known = KnownAccounts { users: BTreeSet::new(), groups: BTreeSet::new() };
        for line in ["u tool 5 \"A tool\"", "g many -", "m member crew", "# u none", "r - 5-9"] {
            known.add_sysusers_line(line);
        }
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(known.users, names(&["member", "tool"]));
        assert_eq!(known.groups, names(&["crew", "many", "tool"]));
        assert!(known.lacks("User", "many") && !known.lacks("Group", "many"));
    }
}

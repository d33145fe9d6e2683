//! The users and groups that units run as.

use std::collections::BTreeSet;

use super::allowance::{Allowance, LINE};
use crate::check::PassError;
use crate::check::context::{resolve, text};
use crate::look::accounts::Accounts;
use crate::look::{Node, View};

/// The names of users and of groups that there are, or will be.
pub(super) struct Known {
    users: BTreeSet<String>,
    groups: BTreeSet<String>,
}

impl Known {
    pub(super) fn of(
        view: &View,
        accounts: &Accounts,
        allowed: &mut Allowance,
    ) -> Result<Self, PassError> {
        let mut known = Known {
            users: accounts.users().keys().cloned().collect(),
            groups: accounts.groups().keys().cloned().collect(),
        };
        // What systemd-sysusers makes at the start: sysusers.d(5).
        for dir in ["etc/sysusers.d", "usr/lib/sysusers.d", "usr/local/lib/sysusers.d"] {
            let Some(dir) = resolve(view, dir.as_bytes())?.filter(Node::is_dir) else { continue };
            for node in view.children(&dir)? {
                let path = String::from_utf8_lossy(&node.path).into_owned();
                let text = read_text(view, &path)?;
                for line in text.lines() {
                    allowed.take(LINE + line.len())?;
                    known.made(line);
                }
            }
        }
        Ok(known)
    }

    /// Notes what a line of sysusers.d makes.
    fn made(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (kind, name, group) = (words.next(), words.next(), words.next());
        let (user, group) = match kind {
            // With a group of the same name.
            Some("u" | "u!") => (name, name),
            Some("g") => (None, name),
            // A member that there is not is made, and so is the group.
            Some("m") => (name, group),
            _ => return,
        };
        self.users.extend(user.map(str::to_owned));
        self.groups.extend(group.map(str::to_owned));
    }

    /// Whether nobody knows the name that a key has; nothing is unknown where there are no accounts
    /// at all.
    pub(super) fn lacks(&self, key: &str, name: &str) -> bool {
        let known = if key == "User" { &self.users } else { &self.groups };
        !known.is_empty() && !known.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sysusers_makes_is_a_user_a_group_or_both() {
        let mut known = Known { users: BTreeSet::new(), groups: BTreeSet::new() };
        for line in ["u tool 5 \"A tool\"", "g many -", "m member crew", "# u none", "r - 5-9"] {
            known.made(line);
        }
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(known.users, names(&["member", "tool"]));
        assert_eq!(known.groups, names(&["crew", "many", "tool"]));
        assert!(known.lacks("User", "many") && !known.lacks("Group", "many"));
    }
}

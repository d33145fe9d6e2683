//! The users and groups of a root: passwd(5), group(5).

use std::collections::BTreeMap;

use super::context::reach;
use crate::look::{LookError, Node, View};

/// The most of a database that is read.
const MOST: usize = 16 << 20;

/// Users and groups with their numbers.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    pub(super) users: BTreeMap<String, u32>,
    pub(super) groups: BTreeMap<String, u32>,
}

impl Accounts {
    pub(super) fn of(view: &View) -> Result<Accounts, LookError> {
        let of = |path| Ok::<_, LookError>(numbers(&text(view, path)?));
        Ok(Accounts { users: of("etc/passwd")?, groups: of("etc/group")? })
    }
}

/// A file of lines; empty where there is none.
pub(super) fn text(view: &View, path: &str) -> Result<String, LookError> {
    let file = reach(view, path.as_bytes())?.filter(Node::is_file);
    let bytes = file.map(|file| view.head(&file, MOST)).transpose()?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn numbers(text: &str) -> BTreeMap<String, u32> {
    let account = |line: &str| {
        let mut fields = line.split(':');
        Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
    };
    text.lines().filter_map(account).collect()
}

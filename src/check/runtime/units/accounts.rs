//! The users and groups that units run as.

use super::memory_budget::{LINE_OVERHEAD, UnitMemoryBudget};
use crate::check::PassError;
use crate::check::context::{read_text, resolve};
use crate::check::known_accounts::{KnownAccounts, SYSUSERS_DIRS};
use crate::image::view::accounts::Accounts;
use crate::image::view::{StackView, ViewNode};

/// Returns the accounts of a root, and those that systemd-sysusers creates.
pub(super) fn known_accounts(
    view: &StackView,
    accounts: &Accounts,
    budget: &mut UnitMemoryBudget,
) -> Result<KnownAccounts, PassError> {
    let mut known = KnownAccounts::new(accounts);
    for dir in SYSUSERS_DIRS {
        let Some(dir) = resolve(view, dir.as_bytes())?.filter(ViewNode::is_dir) else { continue };
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

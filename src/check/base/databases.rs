//! Databases that an overlay brings whole, and that hide those of the base: of packages, and of
//! accounts.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use fs_model::tree::Follow;

use super::lints::{ACCOUNTS, CONFFILE, PACKAGE_DATABASE};
use crate::check::context::{CheckContext, resolve, same_content};
use crate::check::{Findings, PassError};
use crate::look::accounts::Accounts;
use crate::look::packages::{Package, Packages};
use crate::look::version::compare;
use crate::look::{LookError, Node, View, Walk};
use crate::seal::path::escape;

/// The most of a list of files that is read.
const MOST: usize = 16 << 20;
const STATUS: &[u8] = b"var/lib/dpkg/status";

/// A judged layer over others. A database hides the one beneath it, also that of another judged one.
struct Step {
    /// Its place in the stack.
    index: usize,
    /// What the stack shows up to it.
    view: View,
    /// What it shows without it.
    below: View,
}

fn steps(context: &CheckContext<'_>) -> Result<Vec<Step>, PassError> {
    let all = &context.roots()?.view;
    let lowest = |count| all.lowest(count).map_err(|e| PassError::CannotRun(e.to_string()));
    let judged = context.checked().map(|(index, _)| index).filter(|index| *index > 0);
    judged
        .map(|index| Ok(Step { index, view: lowest(index + 1)?, below: lowest(index)? }))
        .collect()
}

/// Whether the overlays' dpkg databases are true of the packages beneath them.
pub(super) fn packages(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for step in steps(context)? {
        packages_of(context, &step, findings)?;
    }
    Ok(())
}

fn packages_of(
    context: &CheckContext<'_>,
    Step { index, view, below }: &Step,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let Some(status) = resolve(view, STATUS)?.filter(|status| status.layer() == *index) else {
        return Ok(());
    };
    if context.was_built_over(&status, below)? {
        return Ok(());
    }
    let layer = context.layer_name(&status);
    let (says, has) = (Packages::read(view)?, Packages::read(below)?);
    for (name, package) in has.iter().filter(|(_, package)| package.is_installed()) {
        let Some(record) = record(view, package)? else {
            // What the overlay removed, its database has a right not to know.
            continue;
        };
        let own = record.layer() == *index;
        if own && says.get(name).is_some_and(Package::is_removed) {
            // Of what it removed, dpkg keeps the list while configuration files are left.
            continue;
        }
        let version = &package.version;
        let message = match says.get(name).filter(|package| package.is_installed()) {
            None => format!("{name} {version} is installed beneath it, and not in it"),
            Some(said) if said.version == *version => continue,
            Some(said) if !own => {
                format!("{name} is said to be {}, and {version} is beneath it", said.version)
            }
            Some(said) if compare(&said.version, version) == Ordering::Less => format!(
                "{name} {} of the overlay lies over the newer {version} beneath it: files of both \
                 are mixed",
                said.version
            ),
            Some(_) => continue,
        };
        findings.add(&PACKAGE_DATABASE, layer, STATUS, message);
    }
    for (name, package) in says.iter().filter(|(_, package)| package.is_installed()) {
        let known = has.get(name).is_some_and(Package::is_installed);
        if !known && !is_there(view, package)? {
            let message = format!("{name} {} is said to be installed, and is not", package.version);
            findings.add(&PACKAGE_DATABASE, layer, STATUS, message);
        }
    }
    Ok(())
}

/// What dpkg wrote when it unpacked a package: of its files, the sums, which nobody changes later,
/// or else their list, from which clean-up takes what it takes away.
fn record(view: &View, package: &Package) -> Result<Option<Node>, LookError> {
    Ok(match package.info(view, "md5sums")? {
        Some(sums) => Some(sums),
        None => package.info(view, "list")?,
    })
}

/// Whether anything of a package is there. One that has no files, has no sums either.
fn is_there(view: &View, package: &Package) -> Result<bool, LookError> {
    if package.info(view, "md5sums")?.is_some() {
        return Ok(true);
    }
    let Some(list) = package.info(view, "list")?.filter(Node::is_file) else { return Ok(false) };
    let list = view.head(&list, MOST)?;
    let mut nothing = true;
    for path in list.split(|&byte| byte == b'\n').filter(|path| path.len() > 2) {
        match resolve(view, path)? {
            Some(node) if node.is_dir() => {}
            Some(_) => return Ok(true),
            None => nothing = false,
        }
    }
    Ok(nothing)
}

/// Configuration files of the packages beneath that the overlays have their own versions of.
pub(super) fn conffiles(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for Step { index, view, below } in steps(context)? {
        for (name, package) in Packages::read(&below)?.iter() {
            for (path, _) in &package.conffiles {
                let Some(now) = view.find(path, Follow::No).or_else(no_way)? else { continue };
                if now.layer() != index || !now.is_file() {
                    continue;
                }
                let Some(before) = below.find(path, Follow::No).or_else(no_way)? else { continue };
                if !same_content(&below, &before, &view, &now)? {
                    let message = format!("a configuration file of {name} {}", package.version);
                    findings.add(&CONFFILE, context.layer_name(&now), &now.path, message);
                }
            }
        }
    }
    Ok(())
}

/// A path that leads in a circle leads nowhere.
fn no_way(error: LookError) -> Result<Option<Node>, LookError> {
    match error {
        LookError::Path { .. } => Ok(None),
        error => Err(error),
    }
}

/// Whether the accounts of what is beneath are still there.
pub(super) fn accounts(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for step in steps(context)? {
        for (path, what) in [("etc/passwd", "user"), ("etc/group", "group")] {
            accounts_of(context, &step, path, what, findings)?;
        }
    }
    Ok(())
}

fn accounts_of(
    context: &CheckContext<'_>,
    step: &Step,
    path: &str,
    what: &str,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let Step { index, view, below } = step;
    let Some(file) = resolve(view, path.as_bytes())?.filter(|file| file.layer() == *index) else {
        return Ok(());
    };
    let of = |accounts: Accounts| match what {
        "user" => accounts.users().clone(),
        _ => accounts.groups().clone(),
    };
    let (before, now) = (of(Accounts::read(below)?), of(Accounts::read(view)?));
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    for (name, id) in &now {
        names.entry(*id).or_insert(name);
    }
    let mut changed: Vec<_> =
        before.iter().filter(|(name, id)| now.get(*name) != Some(id)).collect();
    let mut owned = BTreeMap::new();
    let on_purpose = context.was_built_over(&file, below)?;
    if on_purpose {
        // A name may change, and what nothing belongs to may go.
        changed.retain(|(name, id)| now.contains_key(*name) || !names.contains_key(id));
        owned = owned_by(step, what, changed.iter().map(|(_, id)| **id).collect())?;
        changed.retain(|(_, id)| owned.contains_key(*id));
    }
    for (name, id) in changed {
        let message = match (now.get(name), names.get(id)) {
            (Some(other), _) => {
                format!("the {what} {name} is number {id} beneath it, and {other} here")
            }
            (None, Some(taken)) => {
                format!("the {what} {name} from beneath it is missing: {id} is {taken} here")
            }
            (None, None) => format!("the {what} {name} (number {id}) from beneath it is missing"),
        };
        let owns = owned.get(id).map(|path| format!(": /{} belongs to {id}", escape(path)));
        let message = message + &owns.unwrap_or_default();
        findings.add(&ACCOUNTS, context.layer_name(&file), path.as_bytes(), message);
    }
    Ok(())
}

/// Of users or groups by number, those that files from beneath a layer belong to, and a path of each.
fn owned_by(
    Step { index, view, .. }: &Step,
    what: &str,
    mut ids: BTreeSet<u32>,
) -> Result<BTreeMap<u32, Vec<u8>>, LookError> {
    let mut owned = BTreeMap::new();
    if ids.is_empty() {
        return Ok(owned);
    }
    view.walk::<LookError>(&view.root()?, &mut |node| {
        let id = if what == "user" { node.attr.uid } else { node.attr.gid };
        if node.layer() < *index && ids.remove(&id) {
            owned.insert(id, node.path.clone());
        }
        Ok(if ids.is_empty() { Walk::Stop } else { Walk::Into })
    })?;
    Ok(owned)
}

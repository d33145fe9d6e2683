//! Package and account databases of an overlay, which hide those of the base.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use fs_model::tree::Follow;

use super::lints::{ACCOUNTS, CONFFILE, PACKAGE_DATABASE};
use crate::check::context::{CheckContext, resolve, same_content};
use crate::check::{Findings, PassError};
use crate::image::view::accounts::Accounts;
use crate::image::view::packages::{DpkgDatabase, DpkgPackage};
use crate::image::view::version::compare;
use crate::image::view::{LookError, StackView, ViewNode, WalkControl};
use crate::text::escape::escape;

/// Maximum bytes that are read of a package's file list.
const MAX_LIST: usize = 16 << 20;
const STATUS: &[u8] = b"var/lib/dpkg/status";

/// A checked layer and the layers below it, which may be checked too.
struct LayerStep {
    /// Its index in the stack.
    index: usize,
    /// The layers up to this one.
    view: StackView,
    /// The layers below this one.
    lower: StackView,
}

fn steps(context: &CheckContext<'_>) -> Result<Vec<LayerStep>, PassError> {
    let all = &context.roots()?.view;
    let lowest = |count| all.lowest(count).map_err(|e| PassError::CannotRun(e.to_string()));
    let checked = context.checked().map(|(index, _)| index).filter(|index| *index > 0);
    checked
        .map(|index| Ok(LayerStep { index, view: lowest(index + 1)?, lower: lowest(index)? }))
        .collect()
}

/// Compares the overlays' dpkg databases with the packages in the lower layers.
pub(super) fn packages(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    for step in steps(context)? {
        packages_of(context, &step, findings)?;
    }
    Ok(())
}

fn packages_of(
    context: &CheckContext<'_>,
    LayerStep { index, view, lower }: &LayerStep,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let Some(status) = resolve(view, STATUS)?.filter(|status| status.layer() == *index) else {
        return Ok(());
    };
    if context.was_built_over(&status, lower)? {
        return Ok(());
    }
    let layer = context.layer_name(&status);
    let (recorded, actual) = (DpkgDatabase::read(view)?, DpkgDatabase::read(lower)?);
    for (name, package) in actual.iter().filter(|(_, package)| package.is_installed()) {
        let Some(record) = record(view, package)? else {
            // The overlay removed the package.
            continue;
        };
        let own = record.layer() == *index;
        if own && recorded.get(name).is_some_and(DpkgPackage::is_removed) {
            // dpkg keeps the list of a removed package while configuration files are left.
            continue;
        }
        let version = &package.version;
        let message = match recorded.get(name).filter(|package| package.is_installed()) {
            None => {
                format!("{name} {version} is installed in the lower layers but not in the database")
            }
            Some(record) if record.version == *version => continue,
            Some(record) if !own => format!(
                "{name} has version {} in the database but {version} in the lower layers",
                record.version
            ),
            Some(record) if compare(&record.version, version) == Ordering::Less => format!(
                "{name} {} in the overlay hides the newer {version} in the lower layers: files of \
                 both are mixed",
                record.version
            ),
            Some(_) => continue,
        };
        findings.add(&PACKAGE_DATABASE, layer, STATUS, message);
    }
    for (name, package) in recorded.iter().filter(|(_, package)| package.is_installed()) {
        let known = actual.get(name).is_some_and(DpkgPackage::is_installed);
        if !known && !is_installed(view, package)? {
            let version = &package.version;
            let message =
                format!("{name} {version} is installed according to the database, but is not");
            findings.add(&PACKAGE_DATABASE, layer, STATUS, message);
        }
    }
    Ok(())
}

/// Returns the file that dpkg wrote when it unpacked a package: the checksums, which do not change
/// later, or else the file list, from which clean-up removes deleted files.
fn record(view: &StackView, package: &DpkgPackage) -> Result<Option<ViewNode>, LookError> {
    Ok(match package.info(view, "md5sums")? {
        Some(sums) => Some(sums),
        None => package.info(view, "list")?,
    })
}

/// Returns whether files of a package exist. A package without files has no checksums.
fn is_installed(view: &StackView, package: &DpkgPackage) -> Result<bool, LookError> {
    if package.info(view, "md5sums")?.is_some() {
        return Ok(true);
    }
    let Some(list) = package.info(view, "list")?.filter(ViewNode::is_file) else {
        return Ok(false);
    };
    let list = view.head(&list, MAX_LIST)?;
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

/// Finds configuration files of lower packages that the overlays replace.
pub(super) fn conffiles(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    for LayerStep { index, view, lower } in steps(context)? {
        for (name, package) in DpkgDatabase::read(&lower)?.iter() {
            for (path, _) in &package.conffiles {
                let Some(now) = view.find(path, Follow::No).or_else(not_found)? else { continue };
                if now.layer() != index || !now.is_file() {
                    continue;
                }
                let Some(before) = lower.find(path, Follow::No).or_else(not_found)? else {
                    continue;
                };
                if !same_content(&lower, &before, &view, &now)? {
                    let message = format!("a configuration file of {name} {}", package.version);
                    findings.add(&CONFFILE, context.layer_name(&now), &now.path, message);
                }
            }
        }
    }
    Ok(())
}

/// Treats a link loop as a missing path.
fn not_found(error: LookError) -> Result<Option<ViewNode>, LookError> {
    match error {
        LookError::Path { .. } => Ok(None),
        error => Err(error),
    }
}

/// Compares the overlays' accounts with those of the lower layers.
pub(super) fn accounts(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    for step in steps(context)? {
        for (path, what) in [("etc/passwd", "user"), ("etc/group", "group")] {
            accounts_of(context, &step, path, what, findings)?;
        }
    }
    Ok(())
}

fn accounts_of(
    context: &CheckContext<'_>,
    step: &LayerStep,
    path: &str,
    what: &str,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let LayerStep { index, view, lower } = step;
    let Some(file) = resolve(view, path.as_bytes())?.filter(|file| file.layer() == *index) else {
        return Ok(());
    };
    let ids = |accounts: Accounts| match what {
        "user" => accounts.users().clone(),
        _ => accounts.groups().clone(),
    };
    let (before, now) = (ids(Accounts::read(lower)?), ids(Accounts::read(view)?));
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    for (name, id) in &now {
        names.entry(*id).or_insert(name);
    }
    let mut changed: Vec<_> =
        before.iter().filter(|(name, id)| now.get(*name) != Some(id)).collect();
    let mut owned = BTreeMap::new();
    let on_purpose = context.was_built_over(&file, lower)?;
    if on_purpose {
        // Renamed accounts, and removed ones that own no files, are intended.
        changed.retain(|(name, id)| now.contains_key(*name) || !names.contains_key(id));
        owned = owned_by(step, what, changed.iter().map(|(_, id)| **id).collect())?;
        changed.retain(|(_, id)| owned.contains_key(*id));
    }
    for (name, id) in changed {
        let message = match (now.get(name), names.get(id)) {
            (Some(other), _) => {
                format!("the {what} {name} has id {id} in the lower layers, and {other} here")
            }
            (None, Some(taken)) => format!(
                "the {what} {name} of the lower layers is missing: its id {id} is {taken} here"
            ),
            (None, None) => format!("the {what} {name} (id {id}) of the lower layers is missing"),
        };
        let owns = owned.get(id).map(|path| format!("; id {id} owns /{}", escape(path)));
        let message = message + &owns.unwrap_or_default();
        findings.add(&ACCOUNTS, context.layer_name(&file), path.as_bytes(), message);
    }
    Ok(())
}

/// Returns those of the ids that own a file of a layer below this one, each with such a path.
fn owned_by(
    LayerStep { index, view, .. }: &LayerStep,
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
        Ok(if ids.is_empty() { WalkControl::Stop } else { WalkControl::Into })
    })?;
    Ok(owned)
}

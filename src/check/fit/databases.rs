//! Databases that an overlay brings whole, and that hide those of the base: of packages, and of
//! accounts.

use std::cmp::Ordering;

use fs_model::tree::Follow;

use super::lints::{ACCOUNTS, CONFFILE, PACKAGE_DATABASE};
use crate::check::context::{Context, reach};
use crate::check::{Findings, Stopped};
use crate::look::accounts::Accounts;
use crate::look::packages::{Package, Packages};
use crate::look::version::compare;
use crate::look::{LookError, Node, View};

const STATUS: &[u8] = b"var/lib/dpkg/status";

/// Whether the overlays' dpkg database is true of the packages of the base.
pub(super) fn packages(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    let roots = context.roots()?;
    let Some(below) = &roots.below else { return Ok(()) };
    let view = &roots.view;
    let Some(status) = reach(view, STATUS)?.filter(|status| status.layer() >= context.first())
    else {
        return Ok(());
    };
    if context.saw(&status, below)? {
        return Ok(());
    }
    let layer = context.layer(&status);
    let (says, has) = (Packages::read(view)?, Packages::read(below)?);
    for (name, package) in has.iter().filter(|(_, package)| package.is_installed()) {
        let list = list(view, package)?;
        // What the overlay removed, its database has a right not to know; its list is gone too.
        let Some(list) = list else { continue };
        let own = list.layer() >= context.first();
        let version = &package.version;
        let message = match says.get(name).filter(|package| package.is_installed()) {
            None => format!("{name} {version} of the base is installed, and not in it"),
            Some(said) if said.version == *version => continue,
            Some(said) if !own => {
                format!("{name} is said to be {}, and the base's is {version}", said.version)
            }
            Some(said) if compare(&said.version, version) == Ordering::Less => format!(
                "{name} {} of the overlay lies over the newer {version} of the base: files of both \
                 are mixed",
                said.version
            ),
            Some(_) => continue,
        };
        findings.add(&PACKAGE_DATABASE, layer, STATUS, message);
    }
    for (name, package) in says.iter().filter(|(_, package)| package.is_installed()) {
        let known = has.get(name).is_some_and(Package::is_installed);
        if !known && list(view, package)?.is_none() {
            let message = format!("{name} {} is said to be installed, and is not", package.version);
            findings.add(&PACKAGE_DATABASE, layer, STATUS, message);
        }
    }
    Ok(())
}

/// The list of a package's files.
fn list(view: &View, package: &Package) -> Result<Option<Node>, LookError> {
    let Package { name, architecture, .. } = package;
    for stem in [format!("{name}:{architecture}"), name.clone()] {
        let path = format!("var/lib/dpkg/info/{stem}.list");
        if let Some(list) = reach(view, path.as_bytes())? {
            return Ok(Some(list));
        }
    }
    Ok(None)
}

/// Configuration files of the base's packages that the overlays have their own versions of.
pub(super) fn conffiles(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    let roots = context.roots()?;
    let Some(below) = &roots.below else { return Ok(()) };
    for (name, package) in Packages::read(below)?.iter() {
        for (path, _) in &package.conffiles {
            let Some(now) = roots.view.find(path, Follow::No).or_else(no_way)? else { continue };
            if now.layer() < context.first() || !now.is_file() {
                continue;
            }
            let Some(before) = below.find(path, Follow::No).or_else(no_way)? else { continue };
            let same = before.is_file()
                && before.attr.size == now.attr.size
                && below.digest(&before)? == roots.view.digest(&now)?;
            if !same {
                let message = format!("a configuration file of {name} {}", package.version);
                findings.add(&CONFFILE, context.layer(&now), &now.path, message);
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

/// Whether the accounts of the base are still there.
pub(super) fn accounts(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    let roots = context.roots()?;
    let Some(below) = &roots.below else { return Ok(()) };
    let now = context.accounts()?;
    let before = Accounts::read(below)?;
    let of = [
        ("etc/passwd", "user", before.users(), now.users()),
        ("etc/group", "group", before.groups(), now.groups()),
    ];
    for (path, what, before, now) in of {
        let Some(file) = reach(&roots.view, path.as_bytes())? else { continue };
        if file.layer() < context.first() || context.saw(&file, below)? {
            continue;
        }
        for (name, id) in before {
            let message = match now.get(name) {
                Some(other) if other == id => continue,
                Some(other) => {
                    format!("the {what} {name} is number {id} in the base, and {other} here")
                }
                None => format!("the {what} {name} (number {id}) of the base is missing"),
            };
            findings.add(&ACCOUNTS, context.layer(&file), path.as_bytes(), message);
        }
    }
    Ok(())
}

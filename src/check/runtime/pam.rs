//! Lint of PAM rules that name missing modules (pam.conf(5)).

use std::collections::BTreeSet;

use super::lints::PAM_MODULE;
use crate::check::context::{read_text, resolve};
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode, join};
use crate::text::escape::escape;

const RULES_DIRS: [&[u8]; 2] = [b"etc/pam.d", b"usr/lib/pam.d"];
const LIBRARIES: [&[u8]; 6] = [b"lib", b"lib32", b"lib64", b"usr/lib", b"usr/lib32", b"usr/lib64"];

/// Finds rules of missing modules. Rules of a base whose module an overlay removes count too.
pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let Some(installed) = installed_modules(view)? else { return Ok(()) };
    for dir in RULES_DIRS {
        let Some(dir) = resolve(view, dir)?.filter(ViewNode::is_dir) else { continue };
        // PAM does not read names with a dot, such as dpkg's backups.
        let files = view.children(&dir)?.into_iter();
        for node in files.filter(|node| node.is_file() && !node.name().contains(&b'.')) {
            let text = read_text(view, &String::from_utf8_lossy(&node.path))?;
            let lines = text.lines().enumerate();
            for (index, (name, severity)) in lines.filter_map(|(i, line)| Some((i, rule(line)?))) {
                let is_there = match name.strip_prefix('/') {
                    Some(path) => resolve(view, path.as_bytes())?.is_some(),
                    None => installed.contains(name.as_bytes()),
                };
                if is_there {
                    continue;
                }
                let message = format!("module {} is not installed", escape(name.as_bytes()));
                let fault = Fault::new(&PAM_MODULE, &node, message).line(index + 1);
                faults.push(fault.severity(severity).accepted_in_packages());
            }
        }
    }
    Ok(())
}

/// Returns the module of a rule whose absence can prevent a login, and the severity of that.
fn rule(line: &str) -> Option<(&str, Severity)> {
    let line = line.split('#').next()?.trim();
    let (kind, rest) = line.split_once(char::is_whitespace)?;
    if !["auth", "account", "password", "session"].contains(&&*kind.to_ascii_lowercase()) {
        return None;
    }
    let rest = rest.trim_start();
    let (control, module) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => rest.split_once(char::is_whitespace)?,
    };
    let severity = match control {
        "required" | "requisite" => Severity::Error,
        "optional" | "include" | "substack" => return None,
        _ if control.contains("module_unknown=ignore") => return None,
        _ => Severity::Warning,
    };
    let module = module.split_whitespace().next()?;
    module.ends_with(".so").then_some((module, severity))
}

/// Returns the installed modules; `None` if there are none, because the root does not use PAM.
fn installed_modules(view: &StackView) -> Result<Option<BTreeSet<Vec<u8>>>, LookError> {
    let mut modules = BTreeSet::new();
    for dir in LIBRARIES {
        let Some(dir) = resolve(view, dir)?.filter(ViewNode::is_dir) else { continue };
        let own = view.children(&dir)?.into_iter();
        let triplets = own.filter(|node| memchr::memmem::find(node.name(), b"-linux-").is_some());
        for dir in triplets.map(|node| node.path).chain([dir.path]) {
            let Some(dir) = resolve(view, &join(&dir, b"security"))?.filter(ViewNode::is_dir)
            else {
                continue;
            };
            modules.extend(view.children(&dir)?.iter().map(|node| node.name().to_vec()));
        }
    }
    Ok((!modules.is_empty()).then_some(modules))
}

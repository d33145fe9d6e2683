//! Lint of PAM rules that name missing modules (pam.conf(5)).

use std::collections::BTreeSet;

use super::lints::PAM_MODULE;
use crate::check::context::{CheckContext, Roots, read_text, resolve};
use crate::check::{Finding, Findings, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode, join};
use crate::text::escape::escape;

const LIBRARIES: [&[u8]; 6] = [b"lib", b"lib32", b"lib64", b"usr/lib", b"usr/lib32", b"usr/lib64"];

pub(super) fn modules(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let Roots { view, lower } = context.roots()?;
    let rules = context.difference()?.overlaid.iter().map(|entry| &entry.node);
    let mut rules = rules.filter(|node| node.is_file() && is_rules_file(&node.path)).peekable();
    if rules.peek().is_none() {
        return Ok(());
    }
    let Some(installed) = installed_modules(view)? else { return Ok(()) };
    let before = lower.as_ref().map(installed_modules).transpose()?.flatten().unwrap_or_default();
    for node in rules {
        let path = String::from_utf8_lossy(&node.path);
        // Modules that the lower file names too, and that are missing there, are not reported.
        let old = match lower {
            Some(lower) => read_text(lower, &path)?,
            None => String::new(),
        };
        let old: BTreeSet<&str> = old.lines().filter_map(rule).map(|(name, _)| name).collect();
        for (name, severity) in read_text(view, &path)?.lines().filter_map(rule) {
            let is_there = match name.strip_prefix('/') {
                Some(path) => resolve(view, path.as_bytes())?.is_some(),
                None => installed.contains(name.as_bytes()),
            };
            if is_there || old.contains(name) && !before.contains(name.as_bytes()) {
                continue;
            }
            let message = format!("module {} is not installed", escape(name.as_bytes()));
            let layer = context.layer_name(node);
            let finding = Finding::new(&PAM_MODULE, layer, Some(&node.path), message);
            findings.push(finding.severity(severity));
        }
    }
    Ok(())
}

fn is_rules_file(path: &[u8]) -> bool {
    [&b"etc/pam.d/"[..], b"usr/lib/pam.d/"].iter().any(|dir| {
        let name = path.strip_prefix(*dir);
        // PAM does not read names with a dot, such as dpkg's backups.
        name.is_some_and(|name| !name.is_empty() && !name.contains(&b'/') && !name.contains(&b'.'))
    })
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

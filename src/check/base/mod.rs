//! Lints of how an overlay lies over what is beneath it: that what it was made on, or a newer one.

mod databases;
mod lints;

use std::collections::BTreeMap;

use fs_model::FileType;

use super::context::{self, CheckContext, Image, OwnEntry};
use super::{Finding, Findings, Pass, Severity, PassError};
use crate::below::{self, Below, ChangedError, Drift, Since};
use crate::look::{LookError, View};
use crate::seal::path::{escape, unescape};

use lints::*;

pub(super) static PASSES: &[Pass] = &[
    Pass { lints: &[&BASE_DIGEST], run: base_digest },
    Pass { lints: &[&CHANGED_BENEATH], run: changed_beneath },
    Pass {
        lints: &[
            &DIRECTORY_OVER_LINK,
            &FILE_OVER_DIRECTORY,
            &DIRECTORY_OVER_FILE,
            &WHITEOUT_OF_NOTHING,
        ],
        run: places,
    },
    Pass { lints: &[&PACKAGE_DATABASE], run: databases::packages },
    Pass { lints: &[&CONFFILE], run: databases::conffiles },
    Pass { lints: &[&ACCOUNTS], run: databases::accounts },
];

/// What has a lint of its own, which says more than that it changed.
const JUDGED_ELSEWHERE: [&str; 7] = [
    "var/lib/dpkg/status",
    "var/lib/dpkg/status-old",
    "etc/ld.so.cache",
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
];

/// Whether the overlays were made on the layers that they lie over.
fn base_digest(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    if context.request.other_base {
        return Ok(());
    }
    for (index, image) in context.checked().filter(|(index, _)| *index > 0) {
        let Some(made_on) = image.manifest.as_ref().and_then(|manifest| layers(manifest)) else {
            continue;
        };
        let beneath: Vec<(String, &str)> = context.images[..index]
            .iter()
            .map(|image| (file_name(image), image.digest()))
            .collect();
        for (name, sha256) in made_on {
            // A directory has no digest.
            if sha256.is_empty() || beneath.iter().any(|(_, other)| *other == sha256) {
                continue;
            }
            let short = sha256.get(..16).unwrap_or(&sha256);
            let message = match beneath.iter().find(|(other, _)| *other == name) {
                Some((_, now)) => {
                    let now = now.get(..16).unwrap_or("none");
                    format!("it was made on another {name}: sha256 {short}…, and this is {now}…")
                }
                None => format!("it was made on {name} (sha256 {short}…), which is not beneath it"),
            };
            findings.push(Finding::new(&BASE_DIGEST, &image.name, None, message));
        }
    }
    Ok(())
}

fn file_name(image: &Image) -> String {
    image.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The layers that a manifest names, with their digests.
pub(super) fn layers(manifest: &[u8]) -> Option<Vec<(String, String)>> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    let layer = |layer: &serde_json::Value| {
        Some((layer["name"].as_str()?.to_owned(), layer["sha256"].as_str()?.to_owned()))
    };
    manifest["layers"].as_array()?.iter().map(layer).collect()
}

/// What has changed beneath an overlay since it was made, at its paths.
fn changed_beneath(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    let mut without = Vec::new();
    for (index, image) in context.checked().filter(|(index, _)| *index > 0) {
        let Some(manifest) = &image.manifest else {
            without.push(image.name.as_str());
            continue;
        };
        let lower = view.lowest(index).map_err(|error| PassError::CannotRun(error.to_string()))?;
        let made_on = layers(manifest).unwrap_or_default();
        let changed =
            below::changed(manifest, lower.stack().layers()).map_err(|error| match error {
                ChangedError::Manifest(why) => {
                    PassError::CannotRun(format!("the manifest of {}: {why}", image.name))
                }
                ChangedError::Layers(error) => PassError::CannotRun(error.to_string()),
            })?;
        for drift in changed {
            if drift.same || JUDGED_ELSEWHERE.contains(&drift.path.as_str()) {
                continue;
            }
            let Some(path) = unescape(&drift.path) else { continue };
            // Who has it: the base, or another overlay between them.
            let between = context::topmost_changing(&lower, &path, 1)?.map(|layer| &context.images[layer]);
            let (whose, known) = match between {
                Some(other) => {
                    let name = file_name(other);
                    let known = made_on.iter().any(|(made_on, _)| *made_on == name);
                    (name, known)
                }
                None => ("the base".to_owned(), true),
            };
            if let Some((severity, message)) = three_way(&drift, &whose, known) {
                let finding = Finding::new(&CHANGED_BENEATH, &image.name, Some(&path), message);
                let finding = finding.severity(severity);
                findings.push(match known {
                    true => finding,
                    false => finding.fix(format!(
                        "if both are to boot together, make the overlay over {whose} too"
                    )),
                });
            }
        }
    }
    match without.join(", ") {
        names if names.is_empty() => Ok(()),
        names => Err(PassError::CannotRun(format!(
            "{names} has no manifest beside it that says what was beneath it when it was made"
        ))),
    }
}

/// What each side did at a path, if that matters; `known` where the overlay was made on `whose`
/// image, as it then was, so that what it has there now came later.
fn three_way(drift: &Drift, whose: &str, known: bool) -> Option<(Severity, String)> {
    let base = match (&drift.before, &drift.now) {
        (Some(before), Some(now)) => {
            let changed = if known { "has since changed" } else { "changes" };
            format!("{whose} {changed} its {}", differ(before, now))
        }
        (None, Some(now)) => {
            let got = if known { "has since got" } else { "has" };
            format!("{whose} {got} a {} there", now.kind)
        }
        (_, None) if known => format!("{whose} has it no more"),
        (_, None) => format!("{whose} takes it away"),
    };
    let (severity, message) = match (drift.change.as_str(), drift.since()) {
        // It is still gone, as the overlay would have it.
        ("deleted", Since::Removed) => return None,
        ("unchanged", Since::Removed) => {
            (Severity::Note, format!("{base}; the overlay still has it, for what is in it"))
        }
        ("unchanged", _) => (
            Severity::Warning,
            format!("{base}; the overlay brings back what it was, for what is in it"),
        ),
        (_, Since::Removed) => (Severity::Note, format!("the overlay changed it; {base}")),
        ("added", _) => (Severity::Warning, format!("the overlay added it, and hides that {base}")),
        ("deleted", _) => {
            (Severity::Warning, format!("the overlay deleted it; {base}, which does not show"))
        }
        _ => (Severity::Warning, format!("the overlay changed it, and hides that {base}")),
    };
    Some((severity, message))
}

/// In what two objects differ.
fn differ(before: &Below, now: &Below) -> String {
    if before.kind != now.kind {
        return format!("type, from {} to {}", before.kind, now.kind);
    }
    let mut parts = Vec::new();
    if (&before.sha256, before.size) != (&now.sha256, now.size) {
        let sizes = match (before.size, now.size) {
            (Some(before), Some(now)) if before != now => format!(" ({before} to {now} bytes)"),
            _ => String::new(),
        };
        parts.push(format!("content{sizes}"));
    }
    if before.target != now.target {
        let shown = |target: &Option<String>| target.clone().unwrap_or_default();
        parts.push(format!("target ({} to {})", shown(&before.target), shown(&now.target)));
    }
    if before.mode != now.mode {
        parts.push(format!("mode ({} to {})", before.mode, now.mode));
    }
    if (before.uid, before.gid) != (now.uid, now.gid) {
        parts.push(format!("owner ({}:{} to {}:{})", before.uid, before.gid, now.uid, now.gid));
    }
    if before.device != now.device {
        parts.push("device number".to_owned());
    }
    parts.join(", ")
}

/// What an overlay has where something of another kind is beneath it.
fn places(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    for (index, image) in context.checked().filter(|(index, _)| *index > 0) {
        let own = context.own_entries(index)?;
        let below = view.lowest(index).map_err(|error| PassError::CannotRun(error.to_string()))?;
        let recorded = image.manifest.as_deref().map(below::recorded).unwrap_or_default();
        // What is in a directory that is found has nothing beneath it either: one finding is enough.
        let mut within: Option<Vec<u8>> = None;
        for own in &own {
            if let Some(dir) = &within {
                if own.path.starts_with(dir) {
                    continue;
                }
                within = None;
            }
            if place(own, &below, &recorded, &image.name, findings)? {
                let mut dir = own.path.clone();
                dir.push(b'/');
                within = Some(dir);
            }
        }
    }
    Ok(())
}

/// Whether something was found at a directory.
fn place(
    own: &OwnEntry,
    below: &View,
    recorded: &BTreeMap<String, Below>,
    layer: &str,
    findings: &mut Findings<'_>,
) -> Result<bool, LookError> {
    let Some(attr) = own.attr else {
        if own.under.is_none() && !own.path.is_empty() {
            let message = "a deletion of something that is not there";
            findings.add(&WHITEOUT_OF_NOTHING, layer, &own.path, message);
        }
        return Ok(false);
    };
    let Some(under) = &own.under else { return Ok(false) };
    match (attr.kind, under.attr.kind) {
        (FileType::Directory, FileType::Directory) => {}
        (FileType::Directory, FileType::Symlink) => {
            let target = below.link(under)?;
            let leads = match context::resolve(below, &own.path)? {
                Some(node) if node.is_dir() => {
                    let count = below.children(&node)?.len();
                    format!(", where {count} entries are then out of reach by this path")
                }
                _ => String::new(),
            };
            let message =
                format!("a directory over the symbolic link to {}{leads}", escape(&target));
            let finding = Finding::new(&DIRECTORY_OVER_LINK, layer, Some(&own.path), message);
            let place = context::link_target_path(&own.path, &target);
            let fix = format!("put the files where the link leads to: /{}/…", escape(&place));
            let then = recorded.get(&*escape(&own.path)).and_then(|then| then.target.as_deref());
            findings.push(match then == Some(&*escape(&target)) && !is_of_programs(&own.path) {
                // Who made it had the link before them, as with a package that replaces its own.
                true => finding
                    .severity(Severity::Note)
                    .fix(format!("nothing, where it was meant to be so; otherwise {fix}")),
                false => finding.fix(fix),
            });
            return Ok(true);
        }
        (FileType::Directory, _) => {
            let message =
                format!("a directory over what is a {} beneath it", word(under.attr.kind));
            findings.add(&DIRECTORY_OVER_FILE, layer, &own.path, message);
            return Ok(true);
        }
        (kind, FileType::Directory) => {
            let count = below.children(under)?.len();
            if count > 0 {
                let message =
                    format!("a {} over a directory, whose {count} entries it hides", word(kind));
                findings.add(&FILE_OVER_DIRECTORY, layer, &own.path, message);
            }
        }
        _ => {}
    }
    Ok(false)
}

/// Whether it is a directory by which programs and their libraries are found.
fn is_of_programs(path: &[u8]) -> bool {
    matches!(path, b"bin" | b"sbin") || path.starts_with(b"lib") && !path.contains(&b'/')
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "symbolic link",
        kind => crate::seal::manifest::type_name(kind),
    }
}

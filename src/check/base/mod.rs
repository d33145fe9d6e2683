//! Lints (`fit/…`) of an overlay against the layers below it: those that it was built on, or newer
//! ones.

mod databases;
mod lints;

use std::collections::BTreeMap;

use fs_model::FileType;

use super::context::{self, CheckContext, OwnEntry, StackImage};
use super::{Finding, Findings, Pass, PassError, Severity};
use crate::image::view::{LookError, StackView};
use crate::manifest::lower::{self, Drift, DriftError, DriftKind, LowerRecord};
use crate::text::escape::{escape, unescape};

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
        run: types,
    },
    Pass { lints: &[&PACKAGE_DATABASE], run: databases::packages },
    Pass { lints: &[&CONFFILE], run: databases::conffiles },
    Pass { lints: &[&ACCOUNTS], run: databases::accounts },
];

/// Paths that more specific lints check.
const CHECKED_ELSEWHERE: [&str; 7] = [
    "var/lib/dpkg/status",
    "var/lib/dpkg/status-old",
    "etc/ld.so.cache",
    "etc/passwd",
    "etc/group",
    "etc/shadow",
    "etc/gshadow",
];

/// Checks that the overlays were built on the layers below them.
fn base_digest(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    if context.request.other_base {
        return Ok(());
    }
    for (index, image) in context.checked().filter(|(index, _)| *index > 0) {
        let Some(built_on) = image.manifest.as_ref().and_then(|manifest| manifest_layers(manifest))
        else {
            continue;
        };
        let lower: Vec<(String, &str)> = context.images[..index]
            .iter()
            .map(|image| (file_name(image), image.digest()))
            .collect();
        for (name, sha256) in built_on {
            // A directory has no digest.
            if sha256.is_empty() || lower.iter().any(|(_, other)| *other == sha256) {
                continue;
            }
            let short = sha256.get(..16).unwrap_or(&sha256);
            let message = match lower.iter().find(|(other, _)| *other == name) {
                Some((_, now)) => {
                    let now = now.get(..16).unwrap_or("none");
                    format!("it was built on another {name} (sha256 {short}…); this one is {now}…")
                }
                None => {
                    format!("it was built on {name} (sha256 {short}…), which is not a lower layer")
                }
            };
            findings.push(Finding::new(&BASE_DIGEST, &image.name, None, message));
        }
    }
    Ok(())
}

fn file_name(image: &StackImage) -> String {
    image.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the names and digests of the layers that a manifest records.
pub(super) fn manifest_layers(manifest: &[u8]) -> Option<Vec<(String, String)>> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    let layer = |layer: &serde_json::Value| {
        Some((layer["name"].as_str()?.to_owned(), layer["sha256"].as_str()?.to_owned()))
    };
    manifest["layers"].as_array()?.iter().map(layer).collect()
}

/// Finds changes of the lower layers since the overlay was built, at paths of the overlay.
fn changed_beneath(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    let mut without = Vec::new();
    for (index, image) in context.checked().filter(|(index, _)| *index > 0) {
        let Some(manifest) = &image.manifest else {
            without.push(image.name.as_str());
            continue;
        };
        let lower = view.lowest(index).map_err(|error| PassError::CannotRun(error.to_string()))?;
        let built_on = manifest_layers(manifest).unwrap_or_default();
        let changed =
            lower::find_drift(manifest, lower.stack().layers()).map_err(|error| match error {
                DriftError::Manifest(why) => PassError::CannotRun(format!(
                    "cannot read the manifest of {}: {why}",
                    image.name
                )),
                DriftError::Layers(error) => PassError::CannotRun(error.to_string()),
            })?;
        for drift in changed {
            if drift.same || CHECKED_ELSEWHERE.contains(&drift.path.as_str()) {
                continue;
            }
            let Some(path) = unescape(&drift.path) else { continue };
            // The image that has the path: the base, or another overlay above it.
            let between =
                context::topmost_changing(&lower, &path, 1)?.map(|layer| &context.images[layer]);
            let (image_name, known) = match between {
                Some(other) => {
                    let name = file_name(other);
                    let known = built_on.iter().any(|(other, _)| *other == name);
                    (name, known)
                }
                None => ("the base".to_owned(), true),
            };
            if let Some((severity, message)) = describe_conflict(&drift, &image_name, known) {
                let finding = Finding::new(&CHANGED_BENEATH, &image.name, Some(&path), message);
                let finding = finding.severity(severity);
                findings.push(match known {
                    true => finding,
                    false => finding.fix(format!(
                        "if both boot together, build the overlay on {image_name} too"
                    )),
                });
            }
        }
    }
    match without.join(", ") {
        names if names.is_empty() => Ok(()),
        names => Err(PassError::CannotRun(format!(
            "no manifest of {names} that records the lower layers at build time"
        ))),
    }
}

/// Describes the changes of both sides at a path; `None` if they do not conflict. `known` means
/// that the overlay was built on an earlier version of the image, so the image's present state is
/// newer.
fn describe_conflict(drift: &Drift, image_name: &str, known: bool) -> Option<(Severity, String)> {
    let base = match (&drift.before, &drift.now) {
        (Some(before), Some(now)) => {
            let changed = if known { "has since changed" } else { "changes" };
            format!("{image_name} {changed} its {}", describe_differences(before, now))
        }
        (None, Some(now)) => {
            let added = if known { "has since added" } else { "has" };
            format!("{image_name} {added} a {} there", now.kind)
        }
        (_, None) if known => format!("{image_name} has since removed it"),
        (_, None) => format!("{image_name} deletes it"),
    };
    let (severity, message) = match (drift.change.as_str(), drift.kind()) {
        // Both deleted it.
        ("deleted", DriftKind::Removed) => return None,
        // An unchanged directory is in the overlay only as a parent.
        ("unchanged", DriftKind::Removed) => {
            (Severity::Note, format!("{base}; the overlay keeps it as a parent directory"))
        }
        ("unchanged", _) => (
            Severity::Warning,
            format!("{base}; the overlay restores its old state as a parent directory"),
        ),
        (_, DriftKind::Removed) => (Severity::Note, format!("the overlay changed it; {base}")),
        ("added", _) => {
            (Severity::Warning, format!("the overlay added it; {base}, which is hidden"))
        }
        ("deleted", _) => {
            (Severity::Warning, format!("the overlay deleted it; {base}, which is hidden"))
        }
        _ => (Severity::Warning, format!("the overlay changed it; {base}, which is hidden")),
    };
    Some((severity, message))
}

/// Describes the differences between two objects.
fn describe_differences(before: &LowerRecord, now: &LowerRecord) -> String {
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

/// Finds entries of an overlay that replace an object of another type.
fn types(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    for (index, image) in context.checked().filter(|(index, _)| *index > 0) {
        let own = context.own_entries(index)?;
        let lower = view.lowest(index).map_err(|error| PassError::CannotRun(error.to_string()))?;
        let recorded = image.manifest.as_deref().map(lower::recorded_lower).unwrap_or_default();
        // The contents of a reported directory are not checked: one finding is enough.
        let mut within: Option<Vec<u8>> = None;
        for own in &own {
            if let Some(dir) = &within {
                if own.path.starts_with(dir) {
                    continue;
                }
                within = None;
            }
            if check_type(own, &lower, &recorded, &image.name, findings)? {
                let mut dir = own.path.clone();
                dir.push(b'/');
                within = Some(dir);
            }
        }
    }
    Ok(())
}

/// Checks the type of one entry, and returns whether a directory was reported.
fn check_type(
    own: &OwnEntry,
    lower: &StackView,
    recorded: &BTreeMap<String, LowerRecord>,
    layer: &str,
    findings: &mut Findings<'_>,
) -> Result<bool, LookError> {
    let Some(attr) = own.attr else {
        if own.lower.is_none() && !own.path.is_empty() {
            let message = "the lower layers have nothing there to delete";
            findings.add(&WHITEOUT_OF_NOTHING, layer, &own.path, message);
        }
        return Ok(false);
    };
    let Some(under) = &own.lower else { return Ok(false) };
    match (attr.kind, under.attr.kind) {
        (FileType::Directory, FileType::Directory) => {}
        (FileType::Directory, FileType::Symlink) => {
            let target = lower.link(under)?;
            let hidden = match context::resolve(lower, &own.path)? {
                Some(node) if node.is_dir() => {
                    let count = lower.children(&node)?.len();
                    format!(", which hides {count} entries under this path")
                }
                _ => String::new(),
            };
            let message =
                format!("a directory replaces the symbolic link to {}{hidden}", escape(&target));
            let finding = Finding::new(&DIRECTORY_OVER_LINK, layer, Some(&own.path), message);
            let place = context::link_target_path(&own.path, &target);
            let fix = format!("put the files where the link points: /{}/…", escape(&place));
            let old = recorded.get(&*escape(&own.path)).and_then(|then| then.target.as_deref());
            findings.push(match old == Some(&*escape(&target)) && !is_program_dir(&own.path) {
                // The overlay was built over this link, as when a package replaces its own link.
                true => finding
                    .severity(Severity::Note)
                    .fix(format!("none if this is intended; otherwise {fix}")),
                false => finding.fix(fix),
            });
            return Ok(true);
        }
        (FileType::Directory, _) => {
            let message = format!(
                "a directory replaces a {} of the lower layers",
                type_word(under.attr.kind)
            );
            findings.add(&DIRECTORY_OVER_FILE, layer, &own.path, message);
            return Ok(true);
        }
        (kind, FileType::Directory) => {
            let count = lower.children(under)?.len();
            if count > 0 {
                let message =
                    format!("a {} replaces a directory and hides {count} entries", type_word(kind));
                findings.add(&FILE_OVER_DIRECTORY, layer, &own.path, message);
            }
        }
        _ => {}
    }
    Ok(false)
}

/// Returns whether programs or libraries are found by this path: /bin, /sbin, /lib….
fn is_program_dir(path: &[u8]) -> bool {
    matches!(path, b"bin" | b"sbin") || path.starts_with(b"lib") && !path.contains(&b'/')
}

fn type_word(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "symbolic link",
        kind => crate::manifest::type_name(kind),
    }
}

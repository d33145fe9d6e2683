//! Checks whether an image is up to date, and if not, why.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use fs_model::layer::squashfs::CacheOptions;
use provisioners::image::Inputs;

use super::record::{COMMAND_LINE_KEY, LayerRecord, Record, RecordError, Records, StoredRecord};
use crate::manifest::lower::{self, DriftKind};

/// The reason why an image is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildReason {
    /// The user requested it.
    Forced,
    /// The user requested it in another file than its artifacts.
    Elsewhere,
    /// There is no record of it.
    NotBuilt,
    /// Its record cannot be read.
    DamagedRecord,
    /// Its record has an unknown form.
    UnknownRecord,
    /// It was built by another version of overcoat.
    Version(String),
    /// An input changed.
    Changed {
        /// The name of the input.
        name: String,
        /// Its previous value, if it existed.
        before: Option<String>,
        /// Its present value, if it exists.
        now: Option<String>,
    },
    /// An output file is missing.
    Missing(PathBuf),
    /// An output file was changed after the build.
    Touched(PathBuf),
    /// The user requested a rebase, and this layer changed.
    Layer(String),
}

/// Maximum length, in bytes, of values that are quoted in reasons.
const MAX_QUOTED_LENGTH: usize = 60;

impl fmt::Display for BuildReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildReason::Forced => f.write_str("--force was given"),
            BuildReason::Elsewhere => f.write_str("--output was given"),
            BuildReason::NotBuilt => f.write_str("it was not built yet"),
            BuildReason::DamagedRecord => f.write_str("the record of its last build is damaged"),
            BuildReason::UnknownRecord => {
                f.write_str("the record of its last build is of an unknown version of overcoat")
            }
            BuildReason::Version(version) => write!(f, "it was built by overcoat {version}"),
            BuildReason::Changed { name, before, now } => {
                let name = if name == COMMAND_LINE_KEY { "the command line" } else { name };
                let quoted = |value: &Option<String>| {
                    value.clone().filter(|text| text.len() <= MAX_QUOTED_LENGTH && !is_digest(text))
                };
                match (before, now, quoted(before), quoted(now)) {
                    (Some(_), Some(_), Some(before), Some(now)) => {
                        write!(f, "{name} changed from {before} to {now}")
                    }
                    (None, Some(_), _, Some(now)) => write!(f, "{name} is new: {now}"),
                    (None, ..) => write!(f, "{name} is new"),
                    (_, None, Some(before), _) => write!(f, "{name} was removed; it was {before}"),
                    (_, None, ..) => write!(f, "{name} was removed"),
                    _ => write!(f, "{name} changed"),
                }
            }
            BuildReason::Missing(file) => write!(f, "{} is missing", file.display()),
            BuildReason::Touched(file) => {
                write!(f, "{} was changed after the build", file.display())
            }
            BuildReason::Layer(name) => write!(f, "--rebase was given, and {name} changed"),
        }
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The result of checking an image.
#[derive(Debug, Clone, Default)]
pub struct BuildDecision {
    /// The reasons to build the image; none if it is up to date.
    pub reasons: Vec<BuildReason>,
    /// The layers that differ from those that it was built on.
    pub other_layers: Vec<String>,
    /// Whether the image stays as it is although its inputs differ from those of its build, because
    /// a rollback put it back and they have not changed since.
    pub rolled_back: bool,
}

/// Checks whether the image `name` is up to date. `inputs` are its present inputs and `layers` the
/// files of its layers, which must exist. Without `options`, options of the command line that it
/// was built with are no reason to build it.
///
/// # Errors
/// Fails if a layer cannot be read.
pub fn decide(
    records: &mut Records,
    name: &str,
    inputs: &Inputs,
    layers: &[PathBuf],
    rebase: bool,
    options: bool,
) -> Result<BuildDecision, RecordError> {
    let Some(record) = records.read(name) else {
        let reason = match records.stored(name) {
            StoredRecord::Damaged => BuildReason::DamagedRecord,
            StoredRecord::OtherVersion => BuildReason::UnknownRecord,
            StoredRecord::Missing | StoredRecord::Read(_) => BuildReason::NotBuilt,
        };
        return Ok(BuildDecision { reasons: vec![reason], ..Default::default() });
    };
    let mut reasons = changes(&record.overcoat, &record.inputs, inputs, options);
    let mut rolled_back = false;
    if let Some(state) = record.rolled_back.as_ref().filter(|_| !reasons.is_empty()) {
        let changes = |before| changes(&state.overcoat, before, inputs, options);
        let since: Vec<_> = state.inputs.iter().map(changes).collect();
        rolled_back = since.iter().any(Vec::is_empty);
        reasons = match rolled_back {
            true => Vec::new(),
            // Since the rollback.
            false => since.into_iter().next().unwrap_or(reasons),
        };
    }
    for output in &record.outputs {
        match records.is_unchanged(output) {
            None => reasons.push(BuildReason::Missing(output.file.clone())),
            Some(false) => reasons.push(BuildReason::Touched(output.file.clone())),
            Some(true) => {}
        }
    }
    let other_layers = changed_layers(&record, &records.layers(layers)?);
    if rebase {
        reasons.extend(other_layers.iter().cloned().map(BuildReason::Layer));
    }
    rolled_back &= reasons.is_empty();
    Ok(BuildDecision { reasons, other_layers, rolled_back })
}

/// Returns the changes of the version of overcoat and of the inputs of an image.
fn changes(version: &str, before: &Inputs, now: &Inputs, options: bool) -> Vec<BuildReason> {
    let mut reasons = Vec::new();
    if version != env!("CARGO_PKG_VERSION") {
        reasons.push(BuildReason::Version(version.to_owned()));
    }
    let names: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    for name in names.into_iter().filter(|name| options || *name != COMMAND_LINE_KEY) {
        let (before, now) = (before.get(name), now.get(name));
        if before != now {
            reasons.push(BuildReason::Changed {
                name: name.clone(),
                before: before.cloned(),
                now: now.cloned(),
            });
        }
    }
    reasons
}

/// Returns the layers whose content differs from the record. A layer with a new name is a changed
/// input instead.
pub(super) fn changed_layers(record: &Record, now: &[LayerRecord]) -> Vec<String> {
    record
        .layers
        .iter()
        .zip(now)
        .filter(|(before, now)| before.sha256 != now.sha256)
        .map(|(_, now)| now.name.clone())
        .collect()
}

/// Returns the paths of an image at which its layers have changed since it was built; `None` when
/// its manifest cannot be read.
pub fn changed_lower_paths(
    manifest: &Path,
    layers: &[PathBuf],
) -> Option<Vec<(String, DriftKind)>> {
    let manifest = std::fs::read(manifest).ok()?;
    let layers = crate::image::open::open(layers, CacheOptions::default()).ok()?;
    let changed = lower::find_drift(&manifest, &layers.layers).ok()?;
    Some(changed.into_iter().map(|drift| (drift.path.clone(), drift.kind())).collect())
}

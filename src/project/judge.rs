//! Whether an image is up to date, and if not, why.

use std::fmt;
use std::path::{Path, PathBuf};

use fs_model::layer::squashfs::CacheOptions;
use provisioners::image::Inputs;

use super::record::{LayerRecord, Record, RecordError, Records};
use crate::below::{self, DriftKind};

/// Why an image is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It was asked for.
    Forced,
    /// There is no record of it.
    NotBuilt,
    /// It was built by another version of this program.
    Version(String),
    /// Something that goes into it is another one.
    Changed {
        /// What.
        name: String,
        /// What it was, if it was.
        before: Option<String>,
        /// What it is, if it is.
        now: Option<String>,
    },
    /// A file that it made is gone.
    Missing(PathBuf),
    /// Somebody changed a file that it made.
    Touched(PathBuf),
    /// It is to be made on the layers as they are now, and this one is another one.
    Layer(String),
}

/// Words longer than this are not quoted.
const QUOTED: usize = 60;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Forced => f.write_str("--force was given"),
            Reason::NotBuilt => f.write_str("it was not built yet"),
            Reason::Version(version) => write!(f, "it was built by overcoat {version}"),
            Reason::Changed { name, before, now } => {
                let quoted = |value: &Option<String>| {
                    value.clone().filter(|text| text.len() <= QUOTED && !is_digest(text))
                };
                match (before, now, quoted(before), quoted(now)) {
                    (Some(_), Some(_), Some(before), Some(now)) => {
                        write!(f, "{name} changed from {before} to {now}")
                    }
                    (None, Some(_), _, Some(now)) => write!(f, "{name} is new: {now}"),
                    (None, ..) => write!(f, "{name} is new"),
                    (_, None, Some(before), _) => write!(f, "{name} is gone: it was {before}"),
                    (_, None, ..) => write!(f, "{name} is no longer part of it"),
                    _ => write!(f, "{name} changed"),
                }
            }
            Reason::Missing(file) => write!(f, "{} is missing", file.display()),
            Reason::Touched(file) => write!(f, "{} is not what was built", file.display()),
            Reason::Layer(name) => write!(f, "--rebase was given, and {name} changed"),
        }
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Judged {
    /// Why it is built; it is up to date when there is no reason.
    pub reasons: Vec<Reason>,
    /// The layers that are not those it was made on.
    pub other_layers: Vec<String>,
}

/// Judges the image `name`, of which `inputs` are what goes into it and `layers` the files of its
/// layers, which must be there.
///
/// # Errors
/// When a layer cannot be read.
pub fn judge(
    records: &mut Records,
    name: &str,
    inputs: &Inputs,
    layers: &[PathBuf],
    rebase: bool,
) -> Result<Judged, RecordError> {
    let Some(record) = records.read(name) else {
        return Ok(Judged { reasons: vec![Reason::NotBuilt], other_layers: Vec::new() });
    };
    let mut reasons = Vec::new();
    if record.overcoat != env!("CARGO_PKG_VERSION") {
        reasons.push(Reason::Version(record.overcoat.clone()));
    }
    let names: std::collections::BTreeSet<_> = record.inputs.keys().chain(inputs.keys()).collect();
    for part in names {
        let (before, now) = (record.inputs.get(part), inputs.get(part));
        if before != now {
            reasons.push(Reason::Changed {
                name: part.clone(),
                before: before.cloned(),
                now: now.cloned(),
            });
        }
    }
    for made in &record.outputs {
        match records.is_as_made(made) {
            None => reasons.push(Reason::Missing(made.file.clone())),
            Some(false) => reasons.push(Reason::Touched(made.file.clone())),
            Some(true) => {}
        }
    }
    let other_layers = other(&record, &records.layers(layers)?);
    if rebase {
        reasons.extend(other_layers.iter().cloned().map(Reason::Layer));
    }
    Ok(Judged { reasons, other_layers })
}

/// The layers that are not those of the record. One of another name is told by the inputs.
fn other(record: &Record, now: &[LayerRecord]) -> Vec<String> {
    record
        .layers
        .iter()
        .zip(now)
        .filter(|(before, now)| before.sha256 != now.sha256)
        .map(|(_, now)| now.name.clone())
        .collect()
}

/// The paths of an image at which its layers, which are not those it was made on, have something
/// else now; nothing when its manifest is not there to tell.
pub fn older(manifest: &Path, layers: &[PathBuf]) -> Option<Vec<(String, DriftKind)>> {
    let manifest = std::fs::read(manifest).ok()?;
    let layers = crate::layers::open(layers, CacheOptions::default()).ok()?;
    let changed = below::find_drift(&manifest, &layers.layers).ok()?;
    Some(changed.into_iter().map(|drift| (drift.path.clone(), drift.kind())).collect())
}

//! Puts an earlier result of an image back in place of its current one.

use std::path::PathBuf;

use provisioners::Project;
use provisioners::image::{Inputs, Layers};

use super::decision::project_inputs;
use super::error::BuildError;
use super::kept::KeptResult;
use super::record::{Record, RecordError, Records, RolledBack, remove_file};
use super::staleness::changed_layers;
use super::stamp::FileStamp;
use super::{kept, leftovers, replace};
use crate::text::digest::short;

/// The outcome of a rollback.
#[derive(Debug)]
pub struct Rollback {
    /// The record of the result that was put back.
    pub put_back: Record,
    /// The record of the result that it replaced, if there was one.
    pub replaced: Option<Record>,
    /// Whether the replaced result is kept. It is not if its files were changed.
    pub is_kept: bool,
    /// Whether the present inputs of the image differ from those of the result.
    pub stays: bool,
    /// The layers that differ from those that the result was built on.
    pub other_layers: Vec<String>,
}

/// A result cannot be put back.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// The image has no earlier result.
    #[error("{image}: no earlier result is kept{}", newer_help(.newer))]
    NoEarlier {
        /// The image.
        image: String,
        /// The digests of newer results.
        newer: Vec<String>,
    },
    /// The image has no kept result of the digest.
    #[error("{image}: no kept result has a digest that begins with `{digest}`{}", list(.kept))]
    NoSuchDigest {
        /// The image.
        image: String,
        /// The requested digest.
        digest: String,
        /// The digests of the kept results.
        kept: Vec<String>,
    },
    /// The artifacts of the result have other names than those of the project.
    #[error(
        "{image}: the result has the artifacts {}, which the project does not name: set its \
         `output` and `format` back",
        files.join(", ")
    )]
    OtherFiles {
        /// The image.
        image: String,
        /// The artifacts of the result.
        files: Vec<String>,
    },
    /// A file of a kept result is missing or was changed.
    #[error(
        "{}: the kept file is missing or was changed after the build, so this result cannot be put \
         back: remove {}, and choose another one from `overcoat rollback --list {image}` or build \
         the image again",
        file.display(),
        folder.display()
    )]
    Damaged {
        /// The image.
        image: String,
        /// The file.
        file: PathBuf,
        /// The directory of the result.
        folder: PathBuf,
    },
    /// The image cannot be examined.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A file cannot be replaced or recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn newer_help(newer: &[String]) -> String {
    match newer.first() {
        Some(digest) => format!("; `--to {digest}` puts back a newer one"),
        None => String::new(),
    }
}

fn list(kept: &[String]) -> String {
    match kept {
        [] => ": it has no kept results".to_owned(),
        kept => format!("; the kept ones are {}", kept.join(", ")),
    }
}

/// Returns the results of the image with this index, the newest first, each with whether it is the
/// current one.
///
/// # Errors
/// Fails if the output directory cannot be read.
pub fn project_results(
    project: &Project,
    index: usize,
) -> Result<Vec<(Record, bool)>, RecordError> {
    let name = &project.images()[index].name;
    let mut records = Records::of_project(project, false)?;
    let current = own_record(&mut records, name);
    let kept = kept::earlier(&mut records, name, current.as_ref()).into_iter();
    let mut results: Vec<(Record, bool)> = kept.map(|kept| (kept.record, false)).collect();
    results.extend(current.clone().map(|record| (record, true)));
    results.sort_by_key(|(record, _)| std::cmp::Reverse(record.number));
    Ok(results)
}

/// Reads the record of an image, unless it is of another project.
fn own_record(records: &mut Records, name: &str) -> Option<Record> {
    records.read(name).filter(|record| records.is_own(record))
}

/// Puts a kept result of the image with this index back: the one before the current result, or the
/// one whose digest begins with `to`.
///
/// # Errors
/// Fails if there is no such result, or a file cannot be replaced. If that fails between two files,
/// the record is still that of the replaced result, so the image is out of date.
pub fn rollback(
    project: &Project,
    index: usize,
    to: Option<&str>,
) -> Result<Rollback, RollbackError> {
    let name = &project.images()[index].name;
    // Without results, the directory is not created.
    select(&mut Records::of_project(project, false)?, name, to)?;
    let mut records = Records::of_project(project, true)?;
    let inputs = project_inputs(project, index)?;
    let selected = select(&mut records, name, to)?;
    let files = project.images()[index].files();
    let artifacts = selected.record.artifacts();
    let others = artifacts.filter(|output| !files.contains(&records.artifact(&output.file)));
    let others: Vec<_> = others.map(|output| output.file.display().to_string()).collect();
    if !others.is_empty() {
        return Err(RollbackError::OtherFiles { image: name.clone(), files: others });
    }
    records.reject_others(name, &files)?;
    if let Some(file) = selected.damaged_file() {
        let (image, folder) = (name.clone(), selected.folder().to_owned());
        return Err(RollbackError::Damaged { image, file, folder });
    }
    let replaced = records.read(name);
    let prepared = kept::prepare(&mut records, name)?;
    let is_intact = prepared.is_some();
    if let Some(prepared) = prepared {
        kept::keep_in_place(&records, name, prepared)?;
    }
    // An interrupted rollback has kept it already.
    let number = replaced.as_ref().map(|replaced| replaced.number);
    let is_other = |kept: &KeptResult| kept.folder() != selected.folder();
    let mut kept = kept::kept(&records, name).into_iter().filter(is_other);
    let is_kept = kept.any(|kept| Some(kept.record.number) == number);
    let mut record = selected.record.clone();
    for output in &mut record.outputs {
        let path = records.artifact(&output.file);
        replace::link(&selected.file(output), &path)?;
        output.stamp = FileStamp::read(&path).map_err(RecordError::io("read", &path))?;
    }
    let before = replaced.as_ref().map(|record| record.outputs.clone()).unwrap_or_default();
    // A file that only the replaced result has would be one of another build.
    for output in before.iter().filter(|_| is_intact) {
        let is_other = record.outputs.iter().all(|own| own.file != output.file);
        if is_other && records.is_inside(&output.file) {
            remove_file(&records.artifact(&output.file))?;
        }
    }
    leftovers::note(&mut records, project, name, before, &record)?;
    let stays = record.inputs != inputs || record.overcoat != env!("CARGO_PKG_VERSION");
    let overcoat = env!("CARGO_PKG_VERSION").to_owned();
    let mut rejected = vec![inputs];
    if let Some(replaced) = &replaced {
        rejected.push(replaced.inputs.clone());
        rejected.extend(replaced.rolled_back.iter().flat_map(|state| state.inputs.clone()));
    }
    let mut inputs: Vec<Inputs> = Vec::new();
    for one in rejected {
        if !inputs.contains(&one) {
            inputs.push(one);
        }
    }
    record.rolled_back = Some(RolledBack { overcoat, inputs });
    records.write(name, &record)?;
    let artifacts: Vec<_> = record.outputs.iter().map(|one| records.artifact(&one.file)).collect();
    for (path, output) in artifacts.iter().zip(&record.outputs) {
        // It is the kept file, whose digest was compared.
        records.learn(path, output);
    }
    records.with_other_names(&artifacts, || kept::remove(&selected))?;
    records.refresh(name)?;
    let layers = project.images()[index].image.source.layers().map(Layers::paths);
    let layers = layers.unwrap_or_default();
    // A layer that cannot be read does not matter for the result.
    let now = records.layers(&layers).unwrap_or_default();
    let other_layers = changed_layers(&record, &now);
    Ok(Rollback { put_back: record, replaced, is_kept, stays, other_layers })
}

/// Selects the kept result to put back.
fn select(
    records: &mut Records,
    name: &str,
    to: Option<&str>,
) -> Result<KeptResult, RollbackError> {
    let current = own_record(records, name);
    let kept = kept::earlier(records, name, current.as_ref());
    let current = current.map_or(u64::MAX, |record| record.number);
    let digests = |kept: &[KeptResult]| -> Vec<String> {
        kept.iter().map(|result| short(result.record.digest()).to_owned()).collect()
    };
    let found = kept.iter().find(|result| match to {
        Some(digest) => !digest.is_empty() && result.record.digest().starts_with(digest),
        None => result.record.number <= current,
    });
    found.cloned().ok_or_else(|| {
        let (image, kept) = (name.to_owned(), digests(&kept));
        match to {
            Some(digest) => RollbackError::NoSuchDigest { image, digest: digest.to_owned(), kept },
            None => RollbackError::NoEarlier { image, newer: kept },
        }
    })
}

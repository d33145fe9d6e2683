//! Earlier results of images, in `.overcoat/kept/NAME/NUMBER/`: `record.json` and `files/`.
//!
//! Invariants:
//! - The files are hard links of artifacts. A build replaces artifacts by other files, so a kept
//!   file does not change. Its stamp in the record shows whether it did nevertheless.
//! - A result is linked to `new/` before a build replaces it, and becomes a kept one afterwards. At
//!   no time is an artifact missing, and an interrupted build does not lose the result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::record::{
    FileStamp, OutputRecord, Record, RecordError, Records, file_names, read_record, remove_file,
    write_json,
};

/// Name of the directory of the result that a build is about to replace.
const NEW: &str = "new";
/// Name of the directory with the files of a result.
const FILES: &str = "files";
/// Name of the record of a result.
const RECORD: &str = "record.json";

/// An earlier result of an image.
#[derive(Debug, Clone)]
pub struct KeptResult {
    /// The record of its build.
    pub record: Record,
    /// Its directory.
    folder: PathBuf,
}

impl KeptResult {
    /// Returns the path of the kept file for an output.
    pub(super) fn file(&self, output: &OutputRecord) -> PathBuf {
        link_path(&self.folder, output)
    }

    /// Returns the directory of the result.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Returns the path of the link to an output in the directory of a result. The outputs of an image
/// have different names.
fn link_path(folder: &Path, output: &OutputRecord) -> PathBuf {
    folder.join(FILES).join(output.file.file_name().unwrap_or_default())
}

fn folder(records: &Records, name: &str) -> PathBuf {
    records.folder().join("kept").join(name)
}

/// Returns the names of the images that have kept results.
pub(super) fn names(records: &Records) -> Vec<String> {
    file_names(&records.folder().join("kept"))
}

/// Returns the kept results of an image, the newest first.
pub(super) fn kept(records: &Records, name: &str) -> Vec<KeptResult> {
    let folder = folder(records, name);
    let mut found: Vec<KeptResult> = file_names(&folder)
        .iter()
        .filter_map(|name| {
            let number = name.parse::<u64>().ok()?;
            let folder = folder.join(name);
            let mut record = read_record(&folder.join(RECORD))?;
            records.is_own(&record).then_some(())?;
            record.number = number;
            Some(KeptResult { record, folder })
        })
        .collect();
    found.sort_by_key(|kept| std::cmp::Reverse(kept.record.number));
    found
}

/// The current result of an image, linked to be kept when it is replaced.
#[derive(Debug)]
pub struct PreparedResult {
    /// Its record, with the present stamps of its files.
    record: Record,
}

/// Links the files of an image's current result. Returns `None` if the image has no result, or one
/// of its files is missing or was changed after the build.
///
/// # Errors
/// Fails if a file cannot be linked.
pub(super) fn prepare(
    records: &mut Records,
    name: &str,
) -> Result<Option<PreparedResult>, RecordError> {
    let previous = records.read(name).filter(|record| !record.outputs.is_empty());
    let Some(mut record) = previous.filter(|record| records.is_own(record)) else {
        return Ok(None);
    };
    let folder = folder(records, name).join(NEW);
    let recorded = |output: &OutputRecord| {
        FileStamp::read(&link_path(&folder, output)).is_ok_and(|stamp| stamp == output.stamp)
    };
    // The links of an interrupted build, which may have replaced the artifacts.
    if record.outputs.iter().all(recorded) {
        return Ok(Some(PreparedResult { record }));
    }
    remove_folder(&folder)?;
    for output in &mut record.outputs {
        if records.is_unchanged(output) != Some(true) {
            remove_folder(&folder)?;
            return Ok(None);
        }
        let path = records.artifact(&output.file);
        // A hard link of a symbolic link would name the new artifact.
        let path = fs::canonicalize(&path).map_err(RecordError::io("read", &path))?;
        let files = folder.join(FILES);
        fs::create_dir_all(&files).map_err(RecordError::io("create the directory", &files))?;
        let link = link_path(&folder, output);
        fs::hard_link(&path, &link).map_err(RecordError::io("link", &path))?;
        output.stamp = FileStamp::read(&link).map_err(RecordError::io("read", &link))?;
    }
    Ok(Some(PreparedResult { record }))
}

/// Removes the links of a result that was not replaced. If a failed build has replaced some of its
/// files, the links remain for the next build.
pub(super) fn release(records: &mut Records, name: &str) -> Result<(), RecordError> {
    let record = records.read(name);
    let replaced = record.is_some_and(|record| {
        let mut outputs = record.outputs.iter();
        outputs.any(|output| records.is_unchanged(output) != Some(true))
    });
    match replaced {
        true => Ok(()),
        false => remove_folder(&folder(records, name).join(NEW)),
    }
}

/// Keeps a result that was, or is about to be, replaced.
///
/// # Errors
/// Fails if the result cannot be recorded.
pub(super) fn keep(
    records: &Records,
    name: &str,
    prepared: PreparedResult,
) -> Result<(), RecordError> {
    let PreparedResult { mut record } = prepared;
    let folder = folder(records, name);
    let new = folder.join(NEW);
    let intact = |output: &OutputRecord| {
        FileStamp::read(&link_path(&new, output)).is_ok_and(|stamp| stamp == output.stamp)
    };
    let kept = kept(records, name);
    // An interrupted rollback has kept it already.
    let again = kept
        .iter()
        .any(|other| other.record.number == record.number && other.record.is_same_result(&record));
    if again || !record.outputs.iter().all(intact) {
        return remove_folder(&new);
    }
    let newest = kept.first().map_or(0, |kept| kept.record.number);
    // A result that was put back becomes the one before that which replaces it.
    if !kept.is_empty() && record.number <= newest {
        record.number = newest.saturating_add(1);
    }
    record.rolled_back = None;
    store(&folder, &new, &record)
}

/// Keeps a result under its own number, although there are newer ones.
///
/// # Errors
/// Fails if the result cannot be recorded.
pub(super) fn keep_in_place(
    records: &Records,
    name: &str,
    prepared: PreparedResult,
) -> Result<(), RecordError> {
    let PreparedResult { mut record } = prepared;
    let folder = folder(records, name);
    record.rolled_back = None;
    store(&folder, &folder.join(NEW), &record)
}

fn store(folder: &Path, new: &Path, record: &Record) -> Result<(), RecordError> {
    let to = folder.join(record.number.to_string());
    remove_folder(&to)?;
    write_json(&new.join(RECORD), record)?;
    fs::rename(new, &to).map_err(RecordError::io("rename", new))
}

/// Returns the number of the next result of an image, whose current result has this one.
pub(super) fn next_number(records: &Records, name: &str, current: Option<u64>) -> u64 {
    let newest = kept(records, name).first().map(|kept| kept.record.number);
    newest.max(current).unwrap_or(0).saturating_add(1)
}

/// Removes a kept result.
///
/// # Errors
/// Fails if a file cannot be removed.
pub(super) fn remove(kept: &KeptResult) -> Result<(), RecordError> {
    remove_file(&kept.folder.join(RECORD))?;
    remove_folder(&kept.folder)?;
    if let Some(parent) = kept.folder.parent() {
        // Fails if another result is kept.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

/// Removes the kept results of an image that have the same artifacts as its current one.
///
/// # Errors
/// Fails if a file cannot be removed.
pub(super) fn remove_copies(
    records: &Records,
    name: &str,
    current: &Record,
) -> Result<(), RecordError> {
    kept(records, name).iter().filter(|k| k.record.is_same_result(current)).try_for_each(remove)
}

/// Which kept results of an image stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeepRule {
    /// Number of the newest ones that stay.
    pub(super) newest: usize,
    /// Whether those stay that a current or kept result of another image was built on.
    pub(super) needed: bool,
}

impl KeepRule {
    /// Keeps no result.
    pub(super) const NONE: KeepRule = KeepRule { newest: 0, needed: false };

    /// Returns the rule for the number of results to keep, with the current one.
    pub(super) fn for_limit(limit: u16) -> Self {
        KeepRule { newest: usize::from(limit).saturating_sub(1), needed: limit > 1 }
    }
}

/// Returns the kept results that do not stay by the rules of their images, with the names of these.
/// An image without a rule keeps all its results. The current results of the images `former` need
/// no layers.
pub(super) fn excess(
    records: &mut Records,
    former: &[String],
    rule: impl Fn(&str) -> Option<KeepRule>,
) -> Vec<(String, KeptResult)> {
    let current = records.names().into_iter().filter(|name| !former.contains(name));
    let current: Vec<Record> = current.filter_map(|name| records.read(&name)).collect();
    let mut all: BTreeMap<String, Vec<KeptResult>> =
        names(records).into_iter().map(|name| (name.clone(), kept(records, &name))).collect();
    let mut excess = Vec::new();
    loop {
        let kept = all.values().flatten().map(|kept| &kept.record);
        let layers = current.iter().chain(kept).flat_map(|record| &record.layers);
        let needed: BTreeSet<String> = layers.map(|layer| layer.sha256.clone()).collect();
        let before = excess.len();
        for (name, results) in &mut all {
            let Some(rule) = rule(name) else { continue };
            let mut position = 0;
            results.retain(|result| {
                position += 1;
                let mut artifacts = result.record.artifacts();
                let is_needed = rule.needed && artifacts.any(|one| needed.contains(&one.sha256));
                let stays = position <= rule.newest || is_needed;
                if !stays {
                    excess.push((name.clone(), result.clone()));
                }
                stays
            });
        }
        // Without these, others may not be needed any more.
        if excess.len() == before {
            return excess;
        }
    }
}

/// Removes the kept results that are too many. `limit` returns the number of results to keep of an
/// image, with the current one; `None` keeps all.
///
/// # Errors
/// Fails if a file cannot be removed.
pub(super) fn prune(
    records: &mut Records,
    limit: impl Fn(&str) -> Option<u16>,
) -> Result<(), RecordError> {
    let excess = excess(records, &[], |name| limit(name).map(KeepRule::for_limit));
    excess.iter().try_for_each(|(_, kept)| remove(kept))
}

fn remove_folder(folder: &Path) -> Result<(), RecordError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RecordError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

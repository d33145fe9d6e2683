//! Earlier results of images, in `.overcoat/kept/NAME/NUMBER/`: `record.json` and `files/`.
//!
//! Invariants:
//! - The files are hard links of artifacts. A build replaces artifacts by other files, so a kept
//!   file does not change. Its digest shows whether it did nevertheless.
//! - A result is linked to `new/` before a build replaces it, and becomes a kept one afterwards. At
//!   no time is an artifact missing, and an interrupted build does not lose the result.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::record::{
    OutputRecord, Record, RecordError, Records, StoredRecord, file_names, read_record, read_stored,
    remove_file, write_json,
};
use super::stamp::{FileStamp, file_digest};
use crate::seal::output::create_folders;

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

    /// Returns the first file that is missing or has another content than that of the build. All
    /// files are read.
    pub(super) fn damaged_file(&self) -> Option<PathBuf> {
        let is_damaged = |(file, output): &(PathBuf, &OutputRecord)| {
            !file_digest(file).is_ok_and(|digest| digest == output.sha256)
        };
        let mut files = self.record.outputs.iter().map(|output| (self.file(output), output));
        files.find(is_damaged).map(|(file, _)| file)
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

/// Returns the earlier results of an image with this current one, the newest first: without the
/// current one, which an interrupted command may have kept already. If the artifacts are not those
/// of the record, because it replaced them, the result is an earlier one.
pub(super) fn earlier(
    records: &mut Records,
    name: &str,
    current: Option<&Record>,
) -> Vec<KeptResult> {
    let mut kept = kept(records, name);
    if let Some(current) = current {
        let is_current = |kept: &KeptResult| kept.record.number == current.number;
        if kept.iter().any(is_current) && is_present(records, current) {
            kept.retain(|kept| !is_current(kept));
        }
    }
    kept
}

/// Returns whether all files of a result are in their places and unchanged.
fn is_present(records: &mut Records, record: &Record) -> bool {
    record.outputs.iter().all(|output| records.is_unchanged(output) == Some(true))
}

/// Returns whether `link` is a name of the file with this stamp.
fn is_link(link: &Path, stamp: FileStamp) -> bool {
    let content = |stamp: FileStamp| stamp.without_change_time();
    FileStamp::read(link).is_ok_and(|found| content(found) == content(stamp))
}

/// The current result of an image, linked to be kept when it is replaced.
#[derive(Debug)]
pub struct PreparedResult {
    /// Its record, with the present stamps of its files.
    record: Box<Record>,
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
    let links: Vec<_> = record.outputs.iter().map(|output| link_path(&folder, output)).collect();
    // The links of an interrupted build, which may have replaced the artifacts.
    if record.outputs.iter().zip(&links).all(|(output, link)| records.is_intact(link, output)) {
        for (output, link) in record.outputs.iter_mut().zip(&links) {
            output.stamp = FileStamp::read(link).map_err(RecordError::io("read", link))?;
        }
        return Ok(Some(PreparedResult { record: Box::new(record) }));
    }
    remove_folder(&folder)?;
    if !is_present(records, &record) {
        return Ok(None);
    }
    let files = folder.join(FILES);
    create_folders(&files).map_err(RecordError::io("create the directory", &files))?;
    let artifacts: Vec<_> = record.outputs.iter().map(|one| records.artifact(&one.file)).collect();
    let prepared = records.with_other_names(&artifacts, || {
        for ((output, path), link) in record.outputs.iter_mut().zip(&artifacts).zip(&links) {
            // A hard link of a symbolic link would name the new artifact.
            let path = fs::canonicalize(path).map_err(RecordError::io("read", path))?;
            fs::hard_link(&path, link).map_err(RecordError::io("link", &path))?;
            output.stamp = FileStamp::read(link).map_err(RecordError::io("read", link))?;
        }
        Ok(Some(PreparedResult { record: Box::new(record) }))
    });
    if prepared.is_err() {
        // The first error is the one to report.
        let _ = remove_remains(&folder);
    }
    prepared
}

/// Removes the links of a result that was not replaced. If a failed build has replaced some of its
/// files, the links remain for the next build.
pub(super) fn release(records: &mut Records, name: &str) -> Result<(), RecordError> {
    let folder = folder(records, name).join(NEW);
    let record = records.read(name);
    if record.as_ref().is_some_and(|record| !is_present(records, record)) {
        return Ok(());
    }
    let outputs = record.iter().flat_map(|record| &record.outputs);
    let artifacts: Vec<_> = outputs.map(|output| records.artifact(&output.file)).collect();
    records.with_other_names(&artifacts, || remove_folder(&folder))?;
    records.refresh(name)
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
    let intact = |output: &OutputRecord| is_link(&link_path(&new, output), output.stamp);
    let kept = kept(records, name);
    // An interrupted rollback has kept it already.
    let again = kept
        .iter()
        .any(|other| other.record.number == record.number && other.record.is_same_result(&record));
    if again || !record.outputs.iter().all(intact) {
        return remove_folder(&new);
    }
    // A result that was put back becomes the one before that which replaces it.
    if let Some(newest) = newest_number(records, name).filter(|newest| record.number <= *newest) {
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
    let new = folder.join(NEW);
    record.rolled_back = None;
    let stored = store(&folder, &new, &record);
    if stored.is_err() {
        // The artifacts are still those of the result. The first error is the one to report.
        let _ = remove_remains(&new);
    }
    stored
}

/// Makes the kept results of an image those of another one, which has none.
///
/// # Errors
/// Fails if they cannot be moved.
pub(super) fn rename(records: &Records, from: &str, to: &str) -> Result<(), RecordError> {
    let (from, to) = (folder(records, from), folder(records, to));
    match from.exists() && !to.exists() {
        true => fs::rename(&from, &to).map_err(RecordError::io("rename", &from)),
        false => Ok(()),
    }
}

fn store(folder: &Path, new: &Path, record: &Record) -> Result<(), RecordError> {
    let to = folder.join(record.number.to_string());
    remove_folder(&to)?;
    write_json(&new.join(RECORD), record)?;
    fs::rename(new, &to).map_err(RecordError::io("rename", new))
}

/// Returns the number of the next result of an image, whose current result has this one.
pub(super) fn next_number(records: &Records, name: &str, current: Option<u64>) -> u64 {
    newest_number(records, name).max(current).unwrap_or(0).saturating_add(1)
}

/// Returns the highest number of a directory of a result, also of one of another project.
fn newest_number(records: &Records, name: &str) -> Option<u64> {
    file_names(&folder(records, name)).iter().filter_map(|name| name.parse().ok()).max()
}

/// Returns the directories, with the names of the images, that interrupted commands have left and
/// that hold no result: it has no record, or the record is damaged.
pub(super) fn remains(records: &mut Records) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for name in names(records) {
        let folder = folder(records, &name);
        for entry in file_names(&folder) {
            let path = folder.join(&entry);
            let is_remnant = match entry.parse::<u64>() {
                Ok(_) => {
                    let stored = read_stored(&path.join(RECORD));
                    matches!(stored, StoredRecord::Missing | StoredRecord::Damaged)
                }
                Err(_) => entry == NEW && !is_needed(records, &name, &path),
            };
            if is_remnant {
                found.push((name.clone(), path));
            }
        }
    }
    found
}

/// Returns whether the links in `new` are those of the result of an image, which an interrupted
/// build has replaced, or may be those of another project.
fn is_needed(records: &mut Records, name: &str, new: &Path) -> bool {
    let record = match records.stored(name) {
        StoredRecord::OtherVersion => return true,
        StoredRecord::Missing | StoredRecord::Damaged => return false,
        StoredRecord::Read(record) if !records.is_own(&record) => return true,
        StoredRecord::Read(record) => record,
    };
    let are_links = record.outputs.iter().all(|one| records.is_intact(&link_path(new, one), one));
    are_links && !is_present(records, &record)
}

/// Returns the size of the files in a directory, in bytes.
pub(super) fn folder_size(folder: &Path) -> u64 {
    let mut size = 0_u64;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                size = size.saturating_add(meta.len());
            }
        }
    }
    size
}

/// Removes a kept result.
///
/// # Errors
/// Fails if a file cannot be removed.
pub(super) fn remove(kept: &KeptResult) -> Result<(), RecordError> {
    remove_file(&kept.folder.join(RECORD))?;
    remove_remains(&kept.folder)
}

/// Removes the directory of a result that has no record.
///
/// # Errors
/// Fails if a file cannot be removed.
pub(super) fn remove_remains(folder: &Path) -> Result<(), RecordError> {
    remove_folder(folder)?;
    if let Some(parent) = folder.parent() {
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
    let removed: Vec<_> = excess.iter().map(|(_, kept)| remove(kept)).collect();
    removed.into_iter().collect()
}

fn remove_folder(folder: &Path) -> Result<(), RecordError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(RecordError::io("remove", folder)(error))
        }
        _ => Ok(()),
    }
}

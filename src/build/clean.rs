//! Removes leftovers and kept results.

use std::fs;
use std::path::{Path, PathBuf};

use provisioners::Project;
use provisioners::image::manifest_path;

use super::kept::{self, KeepRule};
use super::leftovers;
use super::record::{RecordError, Records, file_names, remove_file};
use crate::seal::output::partial_file_process;

/// The outcome of a clean-up of the output directory.
#[derive(Debug, Default)]
pub struct CleanOutcome {
    /// The files and directories that were removed, or would be.
    pub removed: Vec<Removal>,
    /// Leftovers that were changed after the build, and stay.
    pub changed: Vec<Removal>,
    /// Leftovers that are not in the output directory, and stay.
    pub outside: Vec<Removal>,
}

/// A file that is removed, or a directory of a kept result.
#[derive(Debug)]
pub struct Removal {
    /// The path.
    pub path: PathBuf,
    /// The size in bytes.
    pub size: u64,
    /// The image that made it.
    pub image: String,
    /// Why it is not needed.
    pub reason: RemovalReason,
}

/// Why a file is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalReason {
    /// No image makes the file any more.
    Leftover,
    /// The project does not have the image any more.
    FormerImage,
    /// More results are kept than the project wants.
    Excess,
    /// An interrupted command has left it.
    Interrupted,
    /// The user requested it.
    Kept,
}

/// Returns the incomplete files of artifacts and manifests in the output directory whose process
/// has ended, with the names of the images.
fn partial_files(records: &mut Records, project: &Project) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for member in project.images() {
        let files = member.files();
        let manifests: Vec<_> = files.iter().map(|file| manifest_path(file)).collect();
        for file in files.iter().chain(&manifests).filter(|file| records.is_inside(file)) {
            let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { continue };
            let is_partial = |other: &String| {
                partial_file_process(other, &name.to_string_lossy())
                    .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
            };
            let others = file_names(folder).into_iter().filter(is_partial);
            found.extend(others.map(|other| (member.name.clone(), folder.join(other))));
        }
    }
    found
}

/// Removes leftovers of the project, kept results that are too many, and with `all_kept` all kept
/// results but those that a current result was built on. With `dry_run`, only returns what it would
/// remove.
///
/// # Errors
/// Fails if a file cannot be removed.
pub fn clean(
    project: &Project,
    all_kept: bool,
    dry_run: bool,
) -> Result<CleanOutcome, RecordError> {
    let mut outcome = CleanOutcome::default();
    if !project.output.exists() {
        return Ok(outcome);
    }
    let mut records = Records::of_project(project, !dry_run)?;
    let former = leftovers::former_images(&mut records, project);
    for leftover in leftovers::leftovers(&mut records, project) {
        let path = records.artifact(&leftover.output.file);
        let is_inside = records.is_inside(&leftover.output.file);
        let is_unchanged = is_inside && records.is_unchanged(&leftover.output) == Some(true);
        let removal = Removal {
            size: leftover.output.stamp.size(),
            image: leftover.image,
            reason: RemovalReason::Leftover,
            path,
        };
        let list = match (is_inside, is_unchanged) {
            (false, _) => &mut outcome.outside,
            (_, true) => &mut outcome.removed,
            (_, false) => &mut outcome.changed,
        };
        list.push(removal);
    }
    let is_former = |name: &str| former.iter().any(|one| one == name);
    let results = kept::excess(&mut records, &former, |name| {
        let rule = KeepRule::for_limit(project.keep(name).unwrap_or_default());
        match is_former(name) {
            true => Some(KeepRule::NONE),
            false if project.keep(name).is_none() => None,
            false if all_kept => Some(KeepRule { newest: 0, ..rule }),
            false => Some(rule),
        }
    });
    for (image, kept) in &results {
        outcome.removed.push(Removal {
            path: kept.folder().to_owned(),
            size: kept.record.size(),
            image: image.clone(),
            reason: match is_former(image) {
                true => RemovalReason::FormerImage,
                false if all_kept => RemovalReason::Kept,
                false => RemovalReason::Excess,
            },
        });
    }
    for (image, path) in kept::remains(&mut records) {
        let (size, reason) = (kept::folder_size(&path), RemovalReason::Interrupted);
        outcome.removed.push(Removal { path, size, image, reason });
    }
    for (image, path) in partial_files(&mut records, project) {
        let size = fs::symlink_metadata(&path).map_or(0, |meta| meta.len());
        let reason = RemovalReason::Interrupted;
        outcome.removed.push(Removal { path, size, image, reason });
    }
    outcome.removed.sort_by(|a, b| a.path.cmp(&b.path));
    if dry_run {
        return Ok(outcome);
    }
    for removal in outcome.removed.iter().filter(|one| one.reason == RemovalReason::Leftover) {
        remove_file(&removal.path)?;
    }
    results.iter().try_for_each(|(_, kept)| kept::remove(kept))?;
    let remains = outcome.removed.iter().filter(|one| one.reason == RemovalReason::Interrupted);
    for one in remains {
        match one.path.is_dir() {
            true => kept::remove_remains(&one.path)?,
            false => remove_file(&one.path)?,
        }
    }
    leftovers::forget_missing(&records)?;
    for name in project.images().iter().map(|image| &image.name) {
        kept::release(&mut records, name)?;
    }
    for name in &former {
        // The record is needed as long as it names a file that stays.
        if !outcome.changed.iter().chain(&outcome.outside).any(|stays| stays.image == *name) {
            kept::release(&mut records, name)?;
            records.remove(name)?;
        }
    }
    Ok(outcome)
}

//! Files in the output directory that no image makes any more.
//!
//! There are two kinds: files that a build of an image has written and its later builds do not,
//! which `.overcoat/leftovers` lists, and files of images that the project does not have any more,
//! whose records remain. Files of images that other projects had are theirs: projects can share an
//! output directory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use provisioners::Project;
use provisioners::image::manifest_path;
use serde::{Deserialize, Serialize};

use super::kept;
use super::owner::ProjectPlace;
use super::record::{
    OutputRecord, Record, RecordError, Records, StoredRecord, absolute, remove_file, write_json,
};
use super::stamp::{FileStamp, read_file};

/// The version of the format of the list.
const SCHEMA: u32 = 1;

/// A file that no image makes any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Leftover {
    /// The image that made it.
    pub(super) image: String,
    /// The project that had the image.
    #[serde(flatten)]
    project: Option<ProjectPlace>,
    /// The file as it was built.
    #[serde(flatten)]
    pub(super) output: OutputRecord,
}

#[derive(Default, Serialize, Deserialize)]
struct LeftoverList {
    schema: u32,
    files: Vec<Leftover>,
}

fn path(records: &Records) -> PathBuf {
    records.folder().join("leftovers")
}

/// Returns the recorded leftovers of builds; none if the list is damaged.
fn read(records: &Records) -> Vec<Leftover> {
    let text = read_file(&path(records)).unwrap_or_default();
    let list = serde_json::from_slice::<LeftoverList>(&text).unwrap_or_default();
    if list.schema == SCHEMA { list.files } else { Vec::new() }
}

fn write(records: &Records, files: Vec<Leftover>) -> Result<(), RecordError> {
    match files.is_empty() {
        true => remove_file(&path(records)),
        false => write_json(&path(records), &LeftoverList { schema: SCHEMA, files }),
    }
}

/// Updates the list after a build: of the files `before` of the image's previous result, those that
/// exist and are not in the new `record` are leftovers. Returns their names, without those of files
/// that another image makes now.
///
/// # Errors
/// Fails if the list cannot be written.
pub(super) fn note(
    records: &mut Records,
    project: &Project,
    image: &str,
    before: Vec<OutputRecord>,
    record: &Record,
) -> Result<Vec<PathBuf>, RecordError> {
    let mut files = read(records);
    let is_made = |file: &Path| record.outputs.iter().any(|output| output.file == file);
    let old = files.len();
    files.retain(|leftover| !is_made(&leftover.output.file));
    let mut is_changed = files.len() != old;
    let mut noted = Vec::new();
    for mut output in before {
        let path = records.artifact(&output.file);
        if is_made(&output.file) || !path.exists() {
            continue;
        }
        if records.is_unchanged(&output) == Some(true)
            && let Ok(now) = FileStamp::read(&path)
        {
            output.stamp = now;
        }
        is_changed = true;
        noted.push(output.file.clone());
        files.retain(|leftover| leftover.output.file != output.file);
        files.push(Leftover { image: image.to_owned(), project: record.project.clone(), output });
    }
    if is_changed {
        write(records, files)?;
    }
    let others = made_by_others(records, project, image);
    noted.retain(|file| !others.contains(&absolute(&records.artifact(file))));
    Ok(noted)
}

/// Returns the files of the other images than `image`: those that the project names, and those that
/// other records do.
fn made_by_others(records: &mut Records, project: &Project, image: &str) -> BTreeSet<PathBuf> {
    let members = project.images().iter().filter(|member| member.name != image);
    let mut made: BTreeSet<PathBuf> =
        members.flat_map(|member| with_manifests(member.files())).collect();
    for name in records.names().iter().filter(|name| *name != image) {
        let outputs = records.read(name).map(|record| record.outputs).unwrap_or_default();
        made.extend(outputs.iter().map(|output| absolute(&records.artifact(&output.file))));
    }
    made
}

/// Returns the absolute paths of artifacts and their manifests.
fn with_manifests(files: Vec<PathBuf>) -> impl Iterator<Item = PathBuf> {
    files.into_iter().flat_map(|file| [absolute(&manifest_path(&file)), absolute(&file)])
}

/// Removes the files from the list that do not exist any more.
///
/// # Errors
/// Fails if the list cannot be written.
pub(super) fn forget_missing(records: &Records) -> Result<(), RecordError> {
    let mut files = read(records);
    let before = files.len();
    files.retain(|leftover| records.artifact(&leftover.output.file).exists());
    if files.len() == before {
        return Ok(());
    }
    write(records, files)
}

/// Returns the names of images that have results and that the project does not have any more.
pub(super) fn former_images(records: &mut Records, project: &Project) -> Vec<String> {
    let mut names: BTreeSet<String> = records.names().into_iter().collect();
    names.extend(kept::names(records));
    let mut is_former = |name: &String| {
        let kept = |records| kept::kept(records, name).into_iter().next().map(|kept| kept.record);
        project.find(name).is_err()
            && records
                .read(name)
                .or_else(|| kept(records))
                .is_some_and(|record| records.names_project(&record))
    };
    names.into_iter().filter(|name| is_former(name)).collect()
}

/// Gives the record and the kept results of an image that the project does not have any more to the
/// image with this index, if that has no record and makes one of its artifacts: the image was
/// renamed. Returns its former name.
///
/// # Errors
/// Fails if they cannot be moved.
pub(super) fn adopt(
    records: &mut Records,
    project: &Project,
    index: usize,
) -> Result<Option<String>, RecordError> {
    let member = &project.images()[index];
    if !matches!(records.stored(&member.name), StoredRecord::Missing) {
        return Ok(None);
    }
    let files: Vec<PathBuf> = member.files().iter().map(|file| absolute(file)).collect();
    for former in former_images(records, project) {
        let Some(record) = records.read(&former) else { continue };
        let mut artifacts = record.artifacts();
        if artifacts.any(|output| files.contains(&absolute(&records.artifact(&output.file)))) {
            kept::rename(records, &former, &member.name)?;
            records.write(&member.name, &record)?;
            records.remove(&former)?;
            return Ok(Some(former));
        }
    }
    Ok(None)
}

/// Returns the existing files that earlier builds have recorded and that no image makes any more,
/// in order of their names.
pub(super) fn leftovers(records: &mut Records, project: &Project) -> Vec<Leftover> {
    let former = former_images(records, project);
    let mut found = read(records);
    found.retain(|leftover| records.is_of_project(leftover.project.as_ref()));
    let members = project.images().iter();
    let mut made: BTreeSet<PathBuf> = members.flat_map(|one| with_manifests(one.files())).collect();
    for name in records.names() {
        let Some(record) = records.read(&name) else { continue };
        for output in record.outputs {
            match former.contains(&name) {
                true => {
                    let (image, project) = (name.clone(), record.project.clone());
                    found.push(Leftover { image, project, output });
                }
                false => {
                    made.insert(absolute(&records.artifact(&output.file)));
                }
            }
        }
    }
    found.retain(|leftover| {
        let path = records.artifact(&leftover.output.file);
        path.exists() && !made.contains(&absolute(&path))
    });
    found.sort_by(|a, b| a.output.file.cmp(&b.output.file));
    found.dedup_by(|a, b| a.output.file == b.output.file);
    found
}

//! Results of `build NAME -o FILE`, and their promotion to artifacts of their image.
//!
//! The record of such a result is `.overcoat/elsewhere/SHA256.json`, named by the digest of the
//! file, so that it is found wherever the file is moved.
//!
//! A promotion removes the file and its record when all else is done: one that was interrupted can
//! be repeated.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use provisioners::Project;
use provisioners::image::manifest_path;
use serde::{Deserialize, Serialize};

use super::record::{Record, RecordError, Records, absolute, file_names, remove_file, write_json};
use super::stamp::read_file;
use super::{kept, leftovers, replace};
use crate::seal::output::create_folders;
use crate::text::digest::sha256_hex;

/// Maximum number of records of results in other files. The oldest are removed.
const MAX_RECORDS: usize = 20;

/// The record of a result in a file that is not an artifact.
#[derive(Debug, Serialize, Deserialize)]
struct ElsewhereRecord {
    image: String,
    record: Record,
}

/// The outcome of a promotion.
#[derive(Debug)]
pub struct Promotion {
    /// Index of the image.
    pub index: usize,
    /// The artifact that was replaced.
    pub artifact: PathBuf,
    /// The record of the new result.
    pub promoted: Record,
    /// The record of the result that it replaced, if there was one.
    pub replaced: Option<Record>,
}

/// A file cannot become an artifact.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// No build of this project has written the file.
    #[error(
        "{}: not a result of this project: `overcoat build NAME -o FILE` records what it writes",
        .0.display()
    )]
    Unknown(PathBuf),
    /// The file is a symbolic link, and would not be moved with its content.
    #[error("{}: a symbolic link: name the file itself", .0.display())]
    Link(PathBuf),
    /// The file was built for another image.
    #[error("{} is a result of the image {built}, not of {wanted}", file.display())]
    OtherImage {
        /// The file.
        file: PathBuf,
        /// The image that it was built for.
        built: String,
        /// The requested image.
        wanted: String,
    },
    /// The project has no image of this name.
    #[error("{0}")]
    NoImage(String),
    /// The image has several artifacts or one in another format.
    #[error(
        "{} is in the format {format}, but the artifacts of {image} are {}: build it with \
         `overcoat build --force {image}`",
        file.display(),
        artifacts.join(" and ")
    )]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        format: String,
        /// The image.
        image: String,
        /// The names of the artifacts.
        artifacts: Vec<String>,
    },
    /// The file is an artifact of the project.
    #[error("{} is an artifact of {image}: give the file that `build -o` has written", file.display())]
    IsArtifact {
        /// The file.
        file: PathBuf,
        /// The image.
        image: String,
    },
    /// The manifest is missing.
    #[error("{} is missing: the manifest has to be beside the file", .0.display())]
    NoManifest(PathBuf),
    /// The manifest does not describe the file.
    #[error("{} does not describe {}: {reason}", manifest.display(), file.display())]
    OtherManifest {
        /// The manifest.
        manifest: PathBuf,
        /// The file.
        file: PathBuf,
        /// The difference.
        reason: String,
    },
    /// A file cannot be replaced or recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
}

fn folder(records: &Records) -> PathBuf {
    records.folder().join("elsewhere")
}

/// Records the result of a build in another file than the artifacts of the image.
///
/// # Errors
/// Fails if the record cannot be written.
pub(super) fn record_elsewhere(
    records: &Records,
    image: &str,
    record: Record,
) -> Result<(), RecordError> {
    let folder = folder(records);
    create_folders(&folder).map_err(RecordError::io("create the directory", &folder))?;
    let path = folder.join(format!("{}.json", record.digest()));
    write_json(&path, &ElsewhereRecord { image: image.to_owned(), record })?;
    let mut all: Vec<(SystemTime, PathBuf)> = file_names(&folder)
        .iter()
        .filter_map(|name| {
            let path = folder.join(name);
            Some((fs::metadata(&path).ok()?.modified().ok()?, path))
        })
        .collect();
    all.sort();
    let excess = all.len().saturating_sub(MAX_RECORDS);
    all.iter().take(excess).try_for_each(|(_, path)| remove_file(path))
}

/// The part of a manifest that is read here.
#[derive(Debug, Deserialize)]
struct Manifest {
    archive: ManifestArchive,
}

#[derive(Debug, Deserialize)]
struct ManifestArchive {
    format: String,
    sha256: String,
}

/// Reads the manifest of the file with this digest. Returns the format of the file, and the digest
/// of the manifest.
fn read_manifest(file: &Path, sha256: &str) -> Result<(String, String), PromoteError> {
    let path = manifest_path(file);
    let text = match read_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PromoteError::NoManifest(path));
        }
        text => text.map_err(RecordError::io("read", &path))?,
    };
    let other = |reason: &str| PromoteError::OtherManifest {
        manifest: path.clone(),
        file: file.to_owned(),
        reason: reason.to_owned(),
    };
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|_| other("it is not a valid manifest"))?;
    match manifest.archive.sha256 == sha256 {
        true => Ok((manifest.archive.format, sha256_hex(&text))),
        false => Err(other("the digest differs")),
    }
}

/// Rejects the path of an artifact, and the file that a symbolic link in place of one names.
/// Another name of the same file is one that an interrupted promotion has left.
fn reject_artifact(project: &Project, file: &Path) -> Result<(), PromoteError> {
    let place = |path: &Path| {
        let path = absolute(path);
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
        folder.map(|folder| folder.join(path.file_name().unwrap_or_default()))
    };
    let real = |path: &Path| fs::canonicalize(path).ok();
    let is_same = |own: &PathBuf| {
        place(own).is_some_and(|own| Some(own) == place(file))
            || real(own).is_some_and(|own| Some(own) == real(file))
    };
    let mut images = project.images().iter();
    match images.find(|image| image.files().iter().any(is_same)) {
        Some(image) => {
            let image = image.name.clone();
            Err(PromoteError::IsArtifact { file: file.to_owned(), image })
        }
        None => Ok(()),
    }
}

/// Puts `file`, a result of `build NAME -o`, in place of the artifact of its image. The replaced
/// result is kept.
///
/// # Errors
/// Fails if the file is not a result of an image of the project, or cannot be moved.
pub fn promote(
    project: &Project,
    file: &Path,
    name: Option<&str>,
) -> Result<Promotion, PromoteError> {
    if file.is_symlink() {
        return Err(PromoteError::Link(file.to_owned()));
    }
    let mut records = Records::of_project(project, true)?;
    let sha256 = records.digest(file)?;
    reject_artifact(project, file)?;
    // A directory has no digest.
    if sha256.is_empty() {
        return Err(PromoteError::Unknown(file.to_owned()));
    }
    let (format, manifest) = read_manifest(file, &sha256)?;
    let path = folder(&records).join(format!("{sha256}.json"));
    let known = read_file(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let ElsewhereRecord { image, record } = known
        .filter(|known: &ElsewhereRecord| records.is_own(&known.record))
        .ok_or_else(|| PromoteError::Unknown(file.to_owned()))?;
    if let Some(wanted) = name.filter(|name| *name != image) {
        project.find(wanted).map_err(PromoteError::NoImage)?;
        let (file, wanted) = (file.to_owned(), wanted.to_owned());
        return Err(PromoteError::OtherImage { file, built: image, wanted });
    }
    let index = project.find(&image).map_err(PromoteError::NoImage)?;
    let member = &project.images()[index];
    let artifact = match member.image.outputs.as_slice() {
        [(artifact, own)] if own.name() == format => artifact.clone(),
        outputs => {
            let artifacts = outputs.iter().map(|(path, _)| {
                path.file_name().unwrap_or_default().to_string_lossy().into_owned()
            });
            let (file, artifacts) = (file.to_owned(), artifacts.collect());
            return Err(PromoteError::Format { file, format, image, artifacts });
        }
    };
    if !record.outputs.iter().any(|output| output.sha256 == manifest) {
        return Err(PromoteError::OtherManifest {
            manifest: manifest_path(file),
            file: file.to_owned(),
            reason: "it was changed after the build".to_owned(),
        });
    }
    records.reject_others(&image, &member.files())?;
    let replaced = records.read(&image);
    if member.image.keep > 1
        && let Some(previous) = kept::prepare(&mut records, &image)?
    {
        kept::keep(&records, &image, previous)?;
    }
    let number = kept::next_number(&records, &image, replaced.as_ref().map(|r| r.number));
    let own_manifest = manifest_path(&artifact);
    replace::link_or_copy(file, &artifact)?;
    replace::link_or_copy(&manifest_path(file), &own_manifest)?;
    let outputs =
        vec![records.output(&artifact, sha256)?, records.output(&own_manifest, manifest)?];
    let mut promoted = records.create(number, record.inputs, record.layers, outputs);
    let before = replaced.as_ref().map(|record| record.outputs.clone()).unwrap_or_default();
    leftovers::note(&mut records, project, &image, before, &promoted)?;
    records.write(&image, &promoted)?;
    kept::remove_copies(&records, &image, &promoted)?;
    kept::prune(&mut records, |name| project.keep(name))?;
    records.with_other_names(&[artifact.clone(), own_manifest], || {
        remove_file(file)?;
        remove_file(&manifest_path(file))
    })?;
    records.refresh(&image)?;
    promoted = records.read(&image).unwrap_or(promoted);
    remove_file(&path)?;
    Ok(Promotion { index, artifact, promoted, replaced })
}

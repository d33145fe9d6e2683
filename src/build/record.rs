//! Build records, stored beside the artifacts in `.overcoat/`:
//!
//! | path | content |
//! |---|---|
//! | `NAME.json` | the [`Record`] of the image's current result |
//! | `kept/NAME/` | its [earlier results](super::kept) |
//! | `leftovers` | [files that no image makes any more](super::leftovers) |
//! | `elsewhere/SHA256.json` | a [result in another file](mod@super::promote) than the artifact |
//! | `lock` | locked by the process that changes results |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use provisioners::Project;
use provisioners::image::{ImageLocation, Inputs, manifest_path};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::options::is_same_file;
use super::owner::{self, Owner, Owners, ProjectPlace};
use super::stamp::{FileStamp, file_digest, read_file};
use crate::seal::{Output, SealError, output};

/// The version of the record format. Records of version 1 are converted when they are read; records
/// of unknown versions are ignored.
const SCHEMA: u32 = 2;
/// Input key of command line options.
pub(super) const COMMAND_LINE_KEY: &str = "command_line";
/// Input key of command line options in records of version 1.
const COMMAND_LINE_KEY_V1: &str = "the command line";

/// The directory for records, within the artifact directory.
const FOLDER: &str = ".overcoat";

/// The record of an image's last build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// The version of overcoat that built it.
    pub overcoat: String,
    /// The project file that it was built from; `None` if an earlier version built it.
    #[serde(flatten)]
    pub(super) project: Option<ProjectPlace>,
    /// The position of this result in the history of the image: an earlier result has a lower one.
    #[serde(default)]
    pub number: u64,
    /// Present if a rollback put this result back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<RolledBack>,
    /// Its inputs.
    pub inputs: Inputs,
    /// The layers that it was built on, the lowest first.
    pub layers: Vec<LayerRecord>,
    /// Its outputs.
    pub outputs: Vec<OutputRecord>,
}

/// The state of an image when an earlier result of it was put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// The version of overcoat.
    pub overcoat: String,
    /// Inputs with which the image is not built again: those in the project, and those of the
    /// results that were replaced. The environment can make them differ.
    pub inputs: Vec<Inputs>,
}

/// A layer at the time of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The file name.
    pub name: String,
    /// The SHA-256 of the file; empty for a directory.
    pub sha256: String,
}

/// An output file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// The path, relative to the artifact directory.
    #[serde(with = "owner")]
    pub file: PathBuf,
    /// The SHA-256 of the content.
    pub sha256: String,
    /// The stamp, to detect changes.
    pub stamp: FileStamp,
}

/// A build record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file operation failed.
    #[error("cannot {action} {}{}", path.display(), owner_help(path, source))]
    Io {
        /// The operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Another process is building in this directory.
    #[error("another overcoat command is changing the results in {}: wait until it has finished", .0.display())]
    Busy(PathBuf),
    /// Something else is at the path of an artifact.
    #[error("{}: not a regular file: remove it, or give the image another `output`", .0.display())]
    NotRegular(PathBuf),
    /// An artifact is a symbolic link that leads to no directory.
    #[error(
        "{}: a symbolic link to {}, whose directory does not exist: create it, or remove the link",
        file.display(),
        target.display()
    )]
    DanglingLink {
        /// The link.
        file: PathBuf,
        /// Its target.
        target: PathBuf,
    },
    /// The result of another project would be replaced.
    #[error(
        "{} belongs to the image {other} of the project {}: give {image} another {}; if \
         that project does not make it any more, `overcoat clean --project {}` removes it",
        file.display(),
        project.display(),
        if image == other { "name, or this project another `output`" } else { "`output`" },
        project.display()
    )]
    OtherProject {
        /// The image of this project.
        image: String,
        /// The file, or the record.
        file: PathBuf,
        /// The image of the other project.
        other: String,
        /// The file of the other project.
        project: PathBuf,
    },
    /// The record cannot be written.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl RecordError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl Record {
    /// Returns the outputs that are not manifests of others.
    pub fn artifacts(&self) -> impl Iterator<Item = &OutputRecord> {
        let is_manifest = |file: &Path| self.outputs.iter().any(|o| manifest_path(&o.file) == file);
        self.outputs.iter().filter(move |output| !is_manifest(&output.file))
    }

    /// Returns the digest of the first artifact, which identifies the result for the user.
    pub fn digest(&self) -> &str {
        self.artifacts().next().map_or("", |output| &output.sha256)
    }

    /// Returns the size of the artifacts, in bytes.
    pub fn artifact_size(&self) -> u64 {
        self.artifacts().map(|output| output.stamp.size()).sum()
    }

    /// Returns the size of all files, in bytes.
    pub fn size(&self) -> u64 {
        self.outputs.iter().map(|output| output.stamp.size()).sum()
    }

    /// Returns the time of the build in seconds since 1970; `None` without outputs.
    pub fn built(&self) -> Option<i64> {
        self.artifacts().next().map(|output| output.stamp.seconds())
    }

    /// Returns whether two results have the same artifacts. Manifests may differ, because that of
    /// an overlay also describes its layers.
    pub(super) fn is_same_result(&self, other: &Record) -> bool {
        let digests = |record: &Record| -> BTreeMap<PathBuf, String> {
            record.artifacts().map(|o| (o.file.clone(), o.sha256.clone())).collect()
        };
        digests(self) == digests(other)
    }
}

/// The build records of one artifact directory.
#[derive(Debug)]
pub struct Records {
    artifacts: PathBuf,
    /// Digests that are known in this process, by path.
    digests: BTreeMap<PathBuf, (FileStamp, String)>,
    /// The lock file, held while this exists.
    _lock: Option<File>,
    /// The owners of records, if the project is known.
    owners: Option<Owners>,
}

/// A record in a file.
#[derive(Debug)]
pub(super) enum StoredRecord {
    /// There is no file.
    Missing,
    /// The file cannot be read, or is not a record.
    Damaged,
    /// Another version of overcoat wrote it, in an unknown form.
    OtherVersion,
    /// The record.
    Read(Box<Record>),
}

impl Records {
    /// Opens the records in the directory `artifacts`. With `builds`, creates the directory and
    /// locks it against other builds.
    ///
    /// # Errors
    /// Fails if the directory cannot be written, or another process is building in it.
    pub fn open(artifacts: &Path, builds: bool) -> Result<Self, RecordError> {
        let folder = artifacts.join(FOLDER);
        let mut lock = None;
        if builds {
            output::create_folders(&folder)
                .map_err(RecordError::io("create the directory", &folder))?;
            let path = folder.join("lock");
            let file = open_lock(&path, &folder).map_err(RecordError::io("open", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => lock = Some(file),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(RecordError::Busy(artifacts.to_owned()));
                }
                Err(error) => return Err(RecordError::io("lock", &path)(error.into())),
            }
        }
        let artifacts = artifacts.to_owned();
        Ok(Records { artifacts, digests: BTreeMap::new(), _lock: lock, owners: None })
    }

    /// Opens the records of a project, in its directory of artifacts, which other projects may
    /// also use.
    ///
    /// # Errors
    /// Fails as [`open`](Self::open) does.
    pub(super) fn of_project(project: &Project, builds: bool) -> Result<Self, RecordError> {
        let mut records = Self::open(&project.output, builds)?;
        let place = ProjectPlace::new(&project.file, &project.output);
        records.owners = place.map(|place| Owners::new(place, &project.output));
        Ok(records)
    }

    /// Creates the record of an image of the project, which this process has built.
    pub(super) fn create(
        &self,
        number: u64,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        outputs: Vec<OutputRecord>,
    ) -> Record {
        Record {
            schema: SCHEMA,
            overcoat: env!("CARGO_PKG_VERSION").to_owned(),
            project: self.owners.as_ref().map(|owners| owners.this().clone()),
            number,
            rolled_back: None,
            inputs,
            layers,
            outputs,
        }
    }

    fn owner(&self, record: &Record) -> Owner {
        let owners = self.owners.as_ref();
        owners.map_or(Owner::Unknown, |owners| owners.owner(record.project.as_ref()))
    }

    /// Returns whether the record of an image that the project has is of this project, and not of
    /// another one. One of an earlier version, or of a project that was moved, is.
    pub(super) fn is_own(&self, record: &Record) -> bool {
        !matches!(self.owner(record), Owner::Other(_))
    }

    /// Returns whether a leftover of the project at `place` is of this project. One of an earlier
    /// version is.
    pub(super) fn is_of_project(&self, place: Option<&ProjectPlace>) -> bool {
        let owner = self.owners.as_ref().map(|owners| owners.owner(place));
        place.is_none() || owner == Some(Owner::This)
    }

    /// Returns whether a record names this project, so that it is, or was, one of its images.
    pub(super) fn names_project(&self, record: &Record) -> bool {
        self.owner(record) == Owner::This
    }

    /// Rejects a result of the image `name` in `files` that would replace one of another project,
    /// or its record.
    ///
    /// # Errors
    /// Returns [`RecordError::OtherProject`].
    pub(super) fn reject_others(&self, name: &str, files: &[PathBuf]) -> Result<(), RecordError> {
        for other in self.names() {
            let StoredRecord::Read(record) = self.stored(&other) else { continue };
            let Owner::Other(project) = self.owner(&record) else { continue };
            let mut outputs = record.outputs.iter().map(|output| self.artifact(&output.file));
            let is_same = |one: &Path, file: &Path| {
                absolute(one) == absolute(file) || is_same_file(one, file)
            };
            let taken = outputs.find(|output| files.iter().any(|file| is_same(output, file)));
            let record = (other == name).then(|| self.path(name));
            if let Some(file) = taken.or(record) {
                return Err(RecordError::OtherProject {
                    image: name.to_owned(),
                    file,
                    other,
                    project,
                });
            }
        }
        Ok(())
    }

    /// Returns whether a recorded file is in the output directory, also through symbolic links of
    /// its directories. Only such files are removed.
    pub(super) fn is_inside(&self, file: &Path) -> bool {
        let path = self.artifact(file);
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
        let output = fs::canonicalize(&self.artifacts).ok();
        let (Some(folder), Some(output)) = (folder, output) else { return false };
        path.file_name().is_some() && folder.starts_with(output)
    }

    /// Returns the directory of the records.
    pub(super) fn folder(&self) -> PathBuf {
        self.artifacts.join(FOLDER)
    }

    /// Returns the path of an output file.
    pub fn artifact(&self, file: &Path) -> PathBuf {
        self.artifacts.join(file)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.json"))
    }

    /// Returns the names of all images that have a record, in order.
    pub(super) fn names(&self) -> Vec<String> {
        file_names(&self.folder())
            .into_iter()
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect()
    }

    /// Reads the record of the image `name`. Returns `None` when it was not built, or when the
    /// record is damaged or has an unknown version: the image is then built again.
    pub fn read(&mut self, name: &str) -> Option<Record> {
        let StoredRecord::Read(record) = self.stored(name) else { return None };
        for output in &record.outputs {
            let path = self.artifacts.join(&output.file);
            // A digest that was computed since is of the present file.
            self.digests.entry(path).or_insert_with(|| (output.stamp, output.sha256.clone()));
        }
        Some(*record)
    }

    /// Reads the file with the record of the image `name`.
    pub(super) fn stored(&self, name: &str) -> StoredRecord {
        read_stored(&self.path(name))
    }

    /// Writes the record of the image `name`.
    ///
    /// # Errors
    /// Fails if the record cannot be written. No partial record is left.
    pub fn write(&self, name: &str, record: &Record) -> Result<(), RecordError> {
        write_json(&self.path(name), record)
    }

    /// Removes the record of the image `name`.
    ///
    /// # Errors
    /// Fails if the record cannot be removed.
    pub(super) fn remove(&self, name: &str) -> Result<(), RecordError> {
        remove_file(&self.path(name))
    }

    /// Returns the SHA-256 of the file at `path`, which may end in an offset; the digest is always
    /// of the whole file, and empty for a directory. A known digest is reused while the stamp
    /// matches.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn digest(&mut self, path: &Path) -> Result<String, RecordError> {
        let failed = |e| RecordError::io("read", path)(e);
        let file = ImageLocation::of(path).file;
        let meta = fs::metadata(&file).map_err(failed)?;
        if meta.is_dir() {
            return Ok(String::new());
        }
        let stamp = FileStamp::from(&meta);
        if let Some((known, digest)) = self.digests.get(path)
            && *known == stamp
        {
            return Ok(digest.clone());
        }
        let digest = file_digest(&file).map_err(failed)?;
        self.digests.insert(path.to_owned(), (stamp, digest.clone()));
        Ok(digest)
    }

    /// Returns the record of an output that was just written.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn output(&mut self, path: &Path, sha256: String) -> Result<OutputRecord, RecordError> {
        let stamp = FileStamp::read(path).map_err(RecordError::io("read", path))?;
        self.digests.insert(path.to_owned(), (stamp, sha256.clone()));
        let file = path.strip_prefix(&self.artifacts).unwrap_or(path).to_owned();
        Ok(OutputRecord { file, sha256, stamp })
    }

    /// Returns records of the layers at `paths` in their present state.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn layers(&mut self, paths: &[PathBuf]) -> Result<Vec<LayerRecord>, RecordError> {
        paths
            .iter()
            .map(|path| {
                let name = path.file_name().unwrap_or(path.as_os_str());
                let name = name.to_string_lossy().into_owned();
                Ok(LayerRecord { name, sha256: self.digest(path)? })
            })
            .collect()
    }

    /// Whether an output is unchanged, by its stamp or else by its content; `None` if it is
    /// missing.
    pub fn is_unchanged(&mut self, output: &OutputRecord) -> Option<bool> {
        let path = self.artifact(&output.file);
        match fs::metadata(&path) {
            Err(_) => None,
            Ok(_) => Some(self.is_intact(&path, output)),
        }
    }

    /// Remembers that the file at `path` is that of an output with the present stamp.
    pub(super) fn learn(&mut self, path: &Path, output: &OutputRecord) {
        self.digests.insert(path.to_owned(), (output.stamp, output.sha256.clone()));
    }

    /// Runs `change`, which adds or removes other names of the files at `paths`. That changes their
    /// stamps, but their known digests stay known.
    pub(super) fn with_other_names<T>(
        &mut self,
        paths: &[PathBuf],
        change: impl FnOnce() -> T,
    ) -> T {
        let mut known = Vec::new();
        for path in paths {
            if let Some((stamp, digest)) = self.digests.get(path)
                && FileStamp::read(path).is_ok_and(|now| now == *stamp)
            {
                known.push((path, *stamp, digest.clone()));
            }
        }
        let result = change();
        for (path, before, digest) in known {
            let is_same =
                |now: &FileStamp| now.without_change_time() == before.without_change_time();
            if let Some(now) = FileStamp::read(path).ok().filter(is_same) {
                self.digests.insert(path.clone(), (now, digest));
            }
        }
        result
    }

    /// Writes the present stamps of unchanged artifacts into the record of the image `name`, so
    /// that the next command does not read these artifacts.
    ///
    /// # Errors
    /// Fails if the record cannot be written.
    pub(super) fn refresh(&mut self, name: &str) -> Result<(), RecordError> {
        let Some(mut record) = self.read(name) else { return Ok(()) };
        let mut is_changed = false;
        for output in &mut record.outputs {
            let path = self.artifacts.join(&output.file);
            let Ok(now) = FileStamp::read(&path) else { continue };
            let known = self.digests.get(&path);
            let is_known = known.is_some_and(|(at, sha256)| *at == now && *sha256 == output.sha256);
            // The modification time is that of the build.
            if is_known && now != output.stamp && now.seconds() == output.stamp.seconds() {
                output.stamp = now;
                is_changed = true;
            }
        }
        match is_changed {
            true => self.write(name, &record),
            false => Ok(()),
        }
    }

    /// Whether the file at `path` is that of an output, by its stamp or else by its content.
    pub(super) fn is_intact(&mut self, path: &Path, output: &OutputRecord) -> bool {
        match FileStamp::read(path) {
            Err(_) => false,
            Ok(stamp) if stamp == output.stamp => true,
            Ok(_) => self.digest(path).is_ok_and(|digest| digest == output.sha256),
        }
    }
}

/// Opens the lock file, and creates it if it does not exist.
fn open_lock(path: &Path, folder: &Path) -> io::Result<File> {
    match File::options().write(true).create_new(true).open(path) {
        Ok(file) => {
            output::give_to_owner(&file, File::open(folder)?);
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().write(true).open(path)
        }
        Err(error) => Err(error),
    }
}

/// Returns what a user can do if a file operation in the directory of the records fails because the
/// file, or the directory that it is in, belongs to another user.
fn owner_help(path: &Path, error: &io::Error) -> String {
    let records = path.ancestors().find(|path| path.file_name().is_some_and(|n| n == FOLDER));
    let folder = records.and_then(Path::parent).filter(|folder| folder.is_dir());
    let own = rustix::process::geteuid().as_raw();
    let mut existing = path.ancestors().filter_map(|path| fs::symlink_metadata(path).ok()).take(2);
    match folder {
        Some(folder)
            if error.kind() == io::ErrorKind::PermissionDenied
                && existing.any(|meta| meta.uid() != own) =>
        {
            let folder = folder.display();
            format!(" (it belongs to another user: `sudo chown -R $USER {folder}`)")
        }
        _ => String::new(),
    }
}

/// Reads a record, also one of an earlier version; `None` if the file is missing, damaged or of an
/// unknown version.
pub(super) fn read_record(path: &Path) -> Option<Record> {
    match read_stored(path) {
        StoredRecord::Read(record) => Some(*record),
        _ => None,
    }
}

/// Reads a record, also one of an earlier version.
pub(super) fn read_stored(path: &Path) -> StoredRecord {
    /// What the records of all versions have.
    #[derive(Deserialize)]
    struct Head {
        schema: u32,
    }
    let text = match read_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return StoredRecord::Missing,
        Err(_) => return StoredRecord::Damaged,
        Ok(text) => text,
    };
    match serde_json::from_slice::<Head>(&text) {
        Err(_) => return StoredRecord::Damaged,
        Ok(head) if !(1..=SCHEMA).contains(&head.schema) => return StoredRecord::OtherVersion,
        Ok(_) => {}
    }
    let Ok(mut record) = serde_json::from_slice::<Record>(&text) else {
        return StoredRecord::Damaged;
    };
    if record.schema == 1
        && let Some(options) = record.inputs.remove(COMMAND_LINE_KEY_V1)
    {
        record.inputs.insert(COMMAND_LINE_KEY.to_owned(), options);
    }
    StoredRecord::Read(Box::new(record))
}

/// Returns an absolute path, without resolving symbolic links.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Writes a JSON file, whole or not at all.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RecordError> {
    let mut out = Output::file(path)?;
    serde_json::to_writer_pretty(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .map_err(RecordError::io("write", path))?;
    Ok(output::commit(vec![out])?)
}

/// Removes a file, if it exists.
pub(super) fn remove_file(path: &Path) -> Result<(), RecordError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RecordError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Returns the names in a directory that are UTF-8, in order; none if it cannot be read.
pub(super) fn file_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

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

use crate::seal::{Output, SealError, output};
use crate::text::digest::{digest_reader, hex};

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<PathBuf>,
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
    pub file: PathBuf,
    /// The SHA-256 of the content.
    pub sha256: String,
    /// The stamp, to detect changes.
    pub stamp: FileStamp,
}

/// File metadata that identifies unchanged content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStamp {
    size: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// A build record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
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

impl FileStamp {
    /// Returns the stamp of the file at `path`.
    ///
    /// # Errors
    /// Fails if the metadata of the file cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(FileStamp::from(&fs::metadata(path)?))
    }
}

impl FileStamp {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the modification time, in seconds since 1970.
    pub fn seconds(&self) -> i64 {
        self.seconds
    }
}

impl From<&fs::Metadata> for FileStamp {
    fn from(meta: &fs::Metadata) -> Self {
        FileStamp {
            size: meta.len(),
            inode: meta.ino(),
            seconds: meta.mtime(),
            nanoseconds: meta.mtime_nsec(),
        }
    }
}

impl Record {
    /// Creates the record of an image of the project in the file `project`, which this process has
    /// built.
    pub fn new(
        project: &Path,
        number: u64,
        inputs: Inputs,
        layers: Vec<LayerRecord>,
        outputs: Vec<OutputRecord>,
    ) -> Self {
        Record {
            schema: SCHEMA,
            overcoat: env!("CARGO_PKG_VERSION").to_owned(),
            project: Some(fs::canonicalize(project).unwrap_or_else(|_| project.to_owned())),
            number,
            rolled_back: None,
            inputs,
            layers,
            outputs,
        }
    }

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
        self.artifacts().map(|output| output.stamp.size).sum()
    }

    /// Returns the size of all files, in bytes.
    pub fn size(&self) -> u64 {
        self.outputs.iter().map(|output| output.stamp.size).sum()
    }

    /// Returns the time of the build in seconds since 1970; `None` without outputs.
    pub fn built(&self) -> Option<i64> {
        self.artifacts().next().map(|output| output.stamp.seconds)
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
    /// The project file whose images are recorded, if it is known.
    project: Option<PathBuf>,
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
            fs::create_dir_all(&folder)
                .map_err(RecordError::io("create the directory", &folder))?;
            let path = folder.join("lock");
            let file = File::options().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(RecordError::io("open", &path))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => lock = Some(file),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(RecordError::Busy(artifacts.to_owned()));
                }
                Err(error) => return Err(RecordError::io("lock", &path)(error.into())),
            }
        }
        let artifacts = artifacts.to_owned();
        Ok(Records { artifacts, digests: BTreeMap::new(), _lock: lock, project: None })
    }

    /// Opens the records of a project, in its directory of artifacts, which other projects may
    /// also use.
    ///
    /// # Errors
    /// Fails as [`open`](Self::open) does.
    pub(super) fn of_project(project: &Project, builds: bool) -> Result<Self, RecordError> {
        let mut records = Self::open(&project.output, builds)?;
        records.project = fs::canonicalize(&project.file).ok();
        Ok(records)
    }

    /// Returns whether a record is of this project. One of an earlier version does not name its
    /// project.
    pub(super) fn is_own(&self, record: &Record) -> bool {
        match (&record.project, &self.project) {
            (Some(file), Some(own)) => file == own,
            _ => true,
        }
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
        let record: Record = read_record(&self.path(name))?;
        for output in &record.outputs {
            let path = self.artifacts.join(&output.file);
            self.digests.insert(path, (output.stamp, output.sha256.clone()));
        }
        Some(record)
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
        if fs::metadata(&file).map_err(failed)?.is_dir() {
            return Ok(String::new());
        }
        let stamp = FileStamp::read(&file).map_err(failed)?;
        if let Some((known, digest)) = self.digests.get(path)
            && *known == stamp
        {
            return Ok(digest.clone());
        }
        let file = File::open(&file).map_err(failed)?;
        let digest = hex(&digest_reader(file).map_err(failed)?);
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
        match FileStamp::read(&path) {
            Err(_) => None,
            Ok(_) => Some(self.is_intact(&path, output)),
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

/// Reads a record, also one of an earlier version; `None` if the file is missing, damaged or of an
/// unknown version.
pub(super) fn read_record(path: &Path) -> Option<Record> {
    let mut record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    match record.schema {
        1 => {
            if let Some(options) = record.inputs.remove(COMMAND_LINE_KEY_V1) {
                record.inputs.insert(COMMAND_LINE_KEY.to_owned(), options);
            }
        }
        SCHEMA => {}
        _ => return None,
    }
    Some(record)
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

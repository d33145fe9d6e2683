//! Build records, stored beside the artifacts in `.overcoat/NAME.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use provisioners::image::{ImageLocation, Inputs};
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
    /// Its inputs.
    pub inputs: Inputs,
    /// The layers that it was built on, the lowest first.
    pub layers: Vec<LayerRecord>,
    /// Its outputs.
    pub outputs: Vec<OutputRecord>,
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
    #[error("another `overcoat build` is running in {}: wait until it has finished", .0.display())]
    Busy(PathBuf),
    /// The record cannot be written.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl RecordError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
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
    /// Creates the record of an image that this process has built.
    pub fn new(inputs: Inputs, layers: Vec<LayerRecord>, outputs: Vec<OutputRecord>) -> Self {
        let overcoat = env!("CARGO_PKG_VERSION").to_owned();
        Record { schema: SCHEMA, overcoat, inputs, layers, outputs }
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
        Ok(Records { artifacts: artifacts.to_owned(), digests: BTreeMap::new(), _lock: lock })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.artifacts.join(FOLDER).join(format!("{name}.json"))
    }

    /// Reads the record of the image `name`. Returns `None` when it was not built, or when the
    /// record is damaged or has an unknown version: the image is then built again.
    pub fn read(&mut self, name: &str) -> Option<Record> {
        let mut record: Record = serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()?;
        match record.schema {
            1 => {
                if let Some(options) = record.inputs.remove(COMMAND_LINE_KEY_V1) {
                    record.inputs.insert(COMMAND_LINE_KEY.to_owned(), options);
                }
            }
            SCHEMA => {}
            _ => return None,
        }
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
        let path = self.path(name);
        let mut out = Output::file(&path)?;
        serde_json::to_writer_pretty(&mut out, record)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(RecordError::io("write", &path))?;
        Ok(output::commit(vec![out])?)
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
        let path = self.artifacts.join(&output.file);
        match FileStamp::read(&path) {
            Err(_) => None,
            Ok(stamp) if stamp == output.stamp => Some(true),
            Ok(_) => Some(self.digest(&path).is_ok_and(|digest| digest == output.sha256)),
        }
    }
}

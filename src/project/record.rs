//! What is known of an image that was built: beside the artifacts, in `.overcoat/NAME.json`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use provisioners::image::{ImageLocation, Inputs};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::seal::manifest::hex;
use crate::seal::{Output, SealError, output};

/// The version of the record format. Records of version 1 are converted when they are read; records
/// of unknown versions are ignored.
const SCHEMA: u32 = 2;
/// Input key of command line options in records of version 1; `command_line` since version 2.
const COMMAND_LINE_KEY_V1: &str = "the command line";

/// The folder of records, in that of the artifacts.
const FOLDER: &str = ".overcoat";

/// The record of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    schema: u32,
    /// The version of this program that built it.
    pub overcoat: String,
    /// What went into it.
    pub inputs: Inputs,
    /// The layers it was made on, the lowest first.
    pub layers: Vec<LayerRecord>,
    /// What it made.
    pub outputs: Vec<Made>,
}

/// A layer, as it was when an image was made on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its file's name.
    pub name: String,
    /// The SHA-256 of its file; empty for a directory.
    pub sha256: String,
}

/// A file that an image made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The file, from the folder of the artifacts.
    pub file: PathBuf,
    /// The SHA-256 of its content.
    pub sha256: String,
    /// By what is seen that it was not touched.
    pub stamp: Stamp,
}

/// By what is seen, without reading it, that a file is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// A record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else builds in this folder.
    #[error("another `overcoat build` is at work in {}: wait until it has ended", .0.display())]
    Busy(PathBuf),
    /// Writing it.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl RecordError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl Stamp {
    /// That of the file at `path`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Stamp::from(&fs::metadata(path)?))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(meta: &fs::Metadata) -> Self {
        Stamp {
            size: meta.len(),
            inode: meta.ino(),
            seconds: meta.mtime(),
            nanoseconds: meta.mtime_nsec(),
        }
    }
}

impl Record {
    /// The record of an image that was just built by this program.
    pub fn new(inputs: Inputs, layers: Vec<LayerRecord>, outputs: Vec<Made>) -> Self {
        let overcoat = env!("CARGO_PKG_VERSION").to_owned();
        Record { schema: SCHEMA, overcoat, inputs, layers, outputs }
    }
}

/// The records of the images in one folder of artifacts.
#[derive(Debug)]
pub struct Records {
    artifacts: PathBuf,
    /// Digests of files that were read in this run, by path.
    digests: BTreeMap<PathBuf, (Stamp, String)>,
    /// Held as long as this is.
    _lock: Option<File>,
}

impl Records {
    /// The records in the folder `artifacts`. For somebody who `builds` the folder is made, and
    /// nobody else can build in it meanwhile.
    ///
    /// # Errors
    /// When the folder cannot be written, or somebody else builds in it.
    pub fn open(artifacts: &Path, builds: bool) -> Result<Self, RecordError> {
        let folder = artifacts.join(FOLDER);
        let mut lock = None;
        if builds {
            fs::create_dir_all(&folder).map_err(RecordError::io("make the folder", &folder))?;
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

    /// The record of the image `name`; nothing when it was not built, or the record is damaged or of
    /// another version: then it is built again.
    pub fn read(&mut self, name: &str) -> Option<Record> {
        let mut record: Record = serde_json::from_slice(&fs::read(self.path(name)).ok()?).ok()?;
        match record.schema {
            1 => {
                if let Some(options) = record.inputs.remove(COMMAND_LINE_KEY_V1) {
                    record.inputs.insert("command_line".to_owned(), options);
                }
            }
            SCHEMA => {}
            _ => return None,
        }
        for made in &record.outputs {
            let path = self.artifacts.join(&made.file);
            self.digests.insert(path, (made.stamp, made.sha256.clone()));
        }
        Some(record)
    }

    /// Writes the record of the image `name`.
    ///
    /// # Errors
    /// When it cannot be written; it is then not there.
    pub fn write(&self, name: &str, record: &Record) -> Result<(), RecordError> {
        let path = self.path(name);
        let mut out = Output::file(&path)?;
        serde_json::to_writer_pretty(&mut out, record)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(RecordError::io("write", &path))?;
        Ok(output::commit(vec![out])?)
    }

    /// The SHA-256 of the whole file at `path`, which may end in an offset; empty for a directory.
    /// It is read when it is not known
    /// already, or was touched since.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn digest(&mut self, path: &Path) -> Result<String, RecordError> {
        let failed = |e| RecordError::io("read", path)(e);
        let file = ImageLocation::of(path).file;
        if fs::metadata(&file).map_err(failed)?.is_dir() {
            return Ok(String::new());
        }
        let stamp = Stamp::of(&file).map_err(failed)?;
        if let Some((known, digest)) = self.digests.get(path)
            && *known == stamp
        {
            return Ok(digest.clone());
        }
        let mut file = File::open(&file).map_err(failed)?;
        let mut sha256 = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => sha256.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let digest = hex(&sha256.finalize());
        self.digests.insert(path.to_owned(), (stamp, digest.clone()));
        Ok(digest)
    }

    /// What is to be recorded of a file that was just made.
    ///
    /// # Errors
    /// When it is not there.
    pub fn made(&mut self, path: &Path, sha256: String) -> Result<Made, RecordError> {
        let stamp = Stamp::of(path).map_err(RecordError::io("read", path))?;
        self.digests.insert(path.to_owned(), (stamp, sha256.clone()));
        let file = path.strip_prefix(&self.artifacts).unwrap_or(path).to_owned();
        Ok(Made { file, sha256, stamp })
    }

    /// The layers at `paths`, as they are now.
    ///
    /// # Errors
    /// When one cannot be read.
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

    /// Whether a file is as it was made: its stamp is the same, or else its content.
    pub fn is_as_made(&mut self, made: &Made) -> Option<bool> {
        let path = self.artifacts.join(&made.file);
        match Stamp::of(&path) {
            Err(_) => None,
            Ok(stamp) if stamp == made.stamp => Some(true),
            Ok(_) => Some(self.digest(&path).is_ok_and(|digest| digest == made.sha256)),
        }
    }
}

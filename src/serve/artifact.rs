//! A served file and the version of its content.
//!
//! Invariants:
//! - Request data is never part of a path: all paths are known before the first request.
//! - An [`ArtifactVersion`] belongs to one content. Content is considered unchanged while the
//!   file's [`FileStamp`] is. The stamp is checked at each request, and again on the opened file
//!   before any byte is sent, so the sent bytes are those that the digest was computed from.
//! - A digest is computed once per content, by one thread, or taken from the build record. Other
//!   requests wait for it; a client that disconnects does not cancel it.
//! - A rebuilt file is a new file with the same name; responses in progress continue with the old
//!   one. A file is kept open while it is sent and for one second after it was opened. Keeping it
//!   longer would hold its disk space after it was replaced.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use parking_lot::Mutex;

use super::entity::Entity;
use crate::build::{FileStamp, Records};
use crate::text::digest::{digest_read_at, hex, retry_interrupted};

/// Maximum size, in bytes, of contents that are kept in memory.
const MAX_CACHED_SIZE: u64 = 64 << 10;

/// How long an opened file is kept for further requests; many small ranges would each reopen it.
const KEEP_OPEN_FOR: Duration = Duration::from_secs(1);

/// A file to serve, if it exists.
#[derive(Debug)]
pub(super) struct Artifact {
    /// Path relative to the artifact directory.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The artifact directory and the name of the image that makes the file: they locate its
    /// record.
    pub(super) of: (PathBuf, String),
    known: Mutex<Option<Arc<ArtifactVersion>>>,
    /// Held by the task that computes a digest.
    hashing: tokio::sync::Mutex<()>,
}

/// Metadata of one content of an artifact.
#[derive(Debug)]
pub(super) struct ArtifactVersion {
    stamp: FileStamp,
    /// Lowercase hexadecimal.
    pub(super) sha256: String,
    pub(super) modified: SystemTime,
    pub(super) entity: Entity,
    /// The whole content, if it is small.
    pub(super) content: Option<Bytes>,
    /// The file, while it is open.
    file: Mutex<Weak<OpenArtifact>>,
}

/// An open artifact file.
#[derive(Debug)]
pub(super) struct OpenArtifact {
    pub(super) file: File,
    stamp: FileStamp,
}

impl OpenArtifact {
    /// Whether the content is unchanged since the file was opened. A file that was replaced only
    /// lost its name and counts as unchanged.
    pub(super) fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| content_stamp(&meta) == self.stamp)
    }
}

impl Artifact {
    pub(super) fn new(name: String, path: PathBuf, of: (PathBuf, String)) -> Self {
        Artifact { name, path, of, known: Mutex::default(), hashing: tokio::sync::Mutex::default() }
    }

    /// Returns the version of the current content, or `None` when the file does not exist.
    pub(super) async fn version(self: &Arc<Self>) -> io::Result<Option<Arc<ArtifactVersion>>> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(meta) if meta.is_file() => content_stamp(&meta),
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                *self.known.lock() = None;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if let Some(version) = self.known(stamp) {
            return Ok(Some(version));
        }
        let this = self.clone();
        let hashing = async move {
            let _alone = this.hashing.lock().await;
            if let Some(version) = this.known(stamp) {
                return Ok(Some(version));
            }
            let learner = this.clone();
            let version = tokio::task::spawn_blocking(move || learner.learn()).await??;
            let version = version.map(Arc::new);
            (*this.known.lock()).clone_from(&version);
            Ok(version)
        };
        tokio::spawn(hashing).await?
    }

    /// Opens the file, if it still has the content of `version`.
    pub(super) fn open(&self, version: &ArtifactVersion) -> io::Result<Option<Arc<OpenArtifact>>> {
        let mut shared = version.file.lock();
        if let Some(opened) = shared.upgrade() {
            return Ok(Some(opened));
        }
        let Some(file) = open(&self.path)? else { return Ok(None) };
        let stamp = content_stamp(&file.metadata()?);
        if stamp != version.stamp {
            return Ok(None);
        }
        let opened = Arc::new(OpenArtifact { file, stamp });
        *shared = Arc::downgrade(&opened);
        let kept = opened.clone();
        tokio::spawn(async move {
            tokio::time::sleep(KEEP_OPEN_FOR).await;
            drop(kept);
        });
        Ok(Some(opened))
    }

    fn known(&self, stamp: FileStamp) -> Option<Arc<ArtifactVersion>> {
        self.known.lock().clone().filter(|version| version.stamp == stamp)
    }

    /// Reads the file's metadata and computes or looks up its digest.
    fn learn(&self) -> io::Result<Option<ArtifactVersion>> {
        // A file that is written in place can change while it is read: retry.
        for _ in 0..3 {
            let Some(file) = open(&self.path)? else { return Ok(None) };
            let meta = file.metadata()?;
            if !meta.is_file() {
                return Ok(None);
            }
            let stamp = content_stamp(&meta);
            let mut content = (meta.len() <= MAX_CACHED_SIZE).then(Vec::new);
            let recorded = self.recorded();
            let of_this = recorded.as_ref().filter(|(built, _)| *built == FileStamp::from(&meta));
            let sha256 = match of_this.filter(|_| content.is_none()) {
                Some((_, sha256)) => sha256.clone(),
                None => {
                    tracing::debug!(file = %self.path.display(), "computing its digest");
                    digest(&file, meta.len(), content.as_mut())?
                }
            };
            if content_stamp(&file.metadata()?) == stamp {
                if let Some((_, built)) = recorded.filter(|(_, built)| *built != sha256) {
                    tracing::warn!(
                        "{} differs from the output of the last complete build and is served as it \
                         is: its SHA-256 is {sha256}, the build recorded {built}",
                        self.path.display()
                    );
                }
                let modified = meta.modified()?;
                let kind = content_type(&self.name);
                return Ok(Some(ArtifactVersion {
                    stamp,
                    entity: Entity::new(kind, &sha256, meta.len(), Some(modified)),
                    sha256,
                    modified,
                    content: content.map(Bytes::from),
                    file: Mutex::default(),
                }));
            }
        }
        Err(io::Error::other("the file is being written"))
    }

    /// Returns the stamp and the digest of the file in the build record.
    fn recorded(&self) -> Option<(FileStamp, String)> {
        let (artifacts, image) = &self.of;
        let record = Records::open(artifacts, false).ok()?.read(image)?;
        let made =
            record.outputs.into_iter().find(|made| artifacts.join(&made.file) == self.path)?;
        Some((made.stamp, made.sha256))
    }
}

/// Returns the stamp of the content. A build that replaces a file changes its number of names, and
/// with it the time of its last change, while it is sent.
fn content_stamp(meta: &Metadata) -> FileStamp {
    FileStamp::from(meta).without_change_time()
}

/// Returns the media type for a file name.
fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "json" => "application/json",
        "gz" => "application/gzip",
        "zst" => "application/zstd",
        "tar" => "application/x-tar",
        _ => "application/octet-stream",
    }
}

/// Opens a file, if it exists. `O_NONBLOCK`: opening a pipe does not wait for a writer.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the digest of the first `size` bytes of a file, and appends them to `kept`.
fn digest(file: &File, size: u64, mut kept: Option<&mut Vec<u8>>) -> io::Result<String> {
    let read_at = |at, buffer: &mut [u8]| {
        let most = usize::try_from(size - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = retry_interrupted(|| file.read_at(&mut buffer[..most], at))?;
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&buffer[..read]);
        }
        Ok::<_, io::Error>(read)
    };
    Ok(hex(&digest_read_at(size, read_at)?))
}

//! A file that is served, and which content it has now.
//!
//! Invariants:
//! - Nothing of a request takes part in a path: the path is known before there are requests.
//! - A [`Version`] belongs to one content. A file is the same content while its [`Stamp`] is, which
//!   is asked for at each request, and of the opened file itself before anything of it is sent: what
//!   is sent is what the digest is of.
//! - A digest is computed once for a content, by one thread, and not at all when the record of the
//!   build has it. Who asks meanwhile waits; that somebody goes away ends nothing.
//! - A file that is built anew is another one under the same name; a response goes on with that
//!   which it began. A file is kept open for a second after somebody began to get it, and while it
//!   is sent: longer, and its space would stay taken once it is replaced.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::entity::Entity;
use crate::project::{Records, Stamp};
use crate::seal::manifest::hex;

/// How much is read at a time for a digest.
const READ: usize = 1 << 20;

/// Contents of up to this size are kept in memory.
const KEPT: u64 = 64 << 10;

/// How long a file stays open for those who come next: many small ranges would open it each.
const OPEN: Duration = Duration::from_secs(1);

/// A file that is served when it is there.
#[derive(Debug)]
pub(super) struct Artifact {
    /// Its name: where it is in the folder of the artifacts.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The folder of the artifacts, and the image that made the file: whose record may know it.
    pub(super) of: (PathBuf, String),
    known: Mutex<Option<Arc<Version>>>,
    /// Held by the one who computes a digest.
    learning: tokio::sync::Mutex<()>,
}

/// What is known of a content.
#[derive(Debug)]
pub(super) struct Version {
    stamp: Stamp,
    /// In lower-case hexadecimal digits.
    pub(super) sha256: String,
    pub(super) modified: SystemTime,
    pub(super) entity: Entity,
    /// All of it, if it is small.
    pub(super) content: Option<Bytes>,
    /// The file, while it is open.
    file: Mutex<Weak<Opened>>,
}

/// A content, open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    stamp: Stamp,
}

impl Opened {
    /// Whether it still is the content that it was when it was opened. (One that was replaced has
    /// lost its name, and nothing else.)
    pub(super) fn is_unchanged(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| Stamp::from(&meta) == self.stamp)
    }
}

impl Artifact {
    pub(super) fn new(name: String, path: PathBuf, of: (PathBuf, String)) -> Self {
        Artifact {
            name,
            path,
            of,
            known: Mutex::default(),
            learning: tokio::sync::Mutex::default(),
        }
    }

    /// What is known of the content that it has now; nothing when there is no such file.
    pub(super) async fn version(self: &Arc<Self>) -> io::Result<Option<Arc<Version>>> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(meta) if meta.is_file() => Stamp::from(&meta),
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
        let learning = async move {
            let _alone = this.learning.lock().await;
            if let Some(version) = this.known(stamp) {
                return Ok(Some(version));
            }
            let learner = this.clone();
            let version = tokio::task::spawn_blocking(move || learner.learn()).await??;
            let version = version.map(Arc::new);
            (*this.known.lock()).clone_from(&version);
            Ok(version)
        };
        tokio::spawn(learning).await?
    }

    /// Opens the file, if it still has this content.
    pub(super) fn open(&self, version: &Version) -> io::Result<Option<Arc<Opened>>> {
        let mut shared = version.file.lock();
        if let Some(opened) = shared.upgrade() {
            return Ok(Some(opened));
        }
        let Some(file) = open(&self.path)? else { return Ok(None) };
        let stamp = Stamp::from(&file.metadata()?);
        if stamp != version.stamp {
            return Ok(None);
        }
        let opened = Arc::new(Opened { file, stamp });
        *shared = Arc::downgrade(&opened);
        let kept = opened.clone();
        tokio::spawn(async move {
            tokio::time::sleep(OPEN).await;
            drop(kept);
        });
        Ok(Some(opened))
    }

    fn known(&self, stamp: Stamp) -> Option<Arc<Version>> {
        self.known.lock().clone().filter(|version| version.stamp == stamp)
    }

    /// Finds out what the file's content is.
    fn learn(&self) -> io::Result<Option<Version>> {
        // A file that is written in place changes under the reader: then it is begun again.
        for _ in 0..3 {
            let Some(file) = open(&self.path)? else { return Ok(None) };
            let meta = file.metadata()?;
            if !meta.is_file() {
                return Ok(None);
            }
            let stamp = Stamp::from(&meta);
            let mut content = (meta.len() <= KEPT).then(Vec::new);
            let recorded = self.recorded();
            let of_this = recorded.as_ref().filter(|(built, _)| *built == stamp);
            let sha256 = match of_this.filter(|_| content.is_none()) {
                Some((_, sha256)) => sha256.clone(),
                None => {
                    tracing::debug!(file = %self.path.display(), "computing its digest");
                    digest(&file, meta.len(), content.as_mut())?
                }
            };
            if Stamp::from(&file.metadata()?) == stamp {
                if let Some((_, built)) = recorded.filter(|(_, built)| *built != sha256) {
                    tracing::warn!(
                        "{} is not what the last finished build made, and is served as it is: its \
                         SHA-256 is {sha256}, and was {built}",
                        self.path.display()
                    );
                }
                let modified = meta.modified()?;
                let kind = content_type(&self.name);
                return Ok(Some(Version {
                    stamp,
                    entity: Entity::new(kind, &sha256, meta.len(), Some(modified)),
                    sha256,
                    modified,
                    content: content.map(Bytes::from),
                    file: Mutex::default(),
                }));
            }
        }
        Err(io::Error::other("it is being written at this moment"))
    }

    /// What the build has recorded of the file: its stamp and its digest.
    fn recorded(&self) -> Option<(Stamp, String)> {
        let (artifacts, image) = &self.of;
        let record = Records::open(artifacts, false).ok()?.read(image)?;
        let made =
            record.outputs.into_iter().find(|made| artifacts.join(&made.file) == self.path)?;
        Some((made.stamp, made.sha256))
    }
}

/// What the bytes are, for who asks for them.
fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "json" => "application/json",
        "gz" => "application/gzip",
        "zst" => "application/zstd",
        "tar" => "application/x-tar",
        _ => "application/octet-stream",
    }
}

/// Opens a file, if there is one; without waiting for a writer, should it be a pipe.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The digest of a file of this size, whose content goes to `kept` as well. What it grows by
/// meanwhile is not read.
fn digest(file: &File, size: u64, mut kept: Option<&mut Vec<u8>>) -> io::Result<String> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; READ];
    let mut at = 0;
    loop {
        let most = usize::try_from(size - at).unwrap_or(READ).min(READ);
        match file.read_at(&mut buffer[..most], at) {
            Ok(0) => return Ok(hex(&sha256.finalize())),
            Ok(read) => {
                sha256.update(&buffer[..read]);
                if let Some(kept) = &mut kept {
                    kept.extend_from_slice(&buffer[..read]);
                }
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

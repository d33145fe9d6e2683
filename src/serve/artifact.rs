//! A file that is served, and which content it has now.
//!
//! Invariants:
//! - Nothing of a request takes part in a path: the path is known before there are requests.
//! - A [`Version`] belongs to one content. A file is the same content while its [`Stamp`] is, which
//!   is asked of the opened file itself, so that what is sent is what the digest is of.
//! - A digest is computed once for a content, by one thread, and not at all when the record of the
//!   build has it. Who asks meanwhile waits.
//! - A file that is built anew is another one under the same name; a response goes on with that
//!   which it opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::project::{Records, Stamp};
use crate::seal::manifest::hex;

/// How much is read at a time for a digest.
const READ: usize = 1 << 20;

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
    pub(super) stamp: Stamp,
    pub(super) size: u64,
    /// In lower-case hexadecimal digits.
    pub(super) sha256: String,
    pub(super) modified: SystemTime,
}

/// A content, open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) version: Arc<Version>,
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

    /// What the bytes are, for who asks for them.
    pub(super) fn content_type(&self) -> &'static str {
        match self.name.rsplit('.').next().unwrap_or_default() {
            "json" => "application/json",
            "gz" => "application/gzip",
            "zst" => "application/zstd",
            "tar" => "application/x-tar",
            _ => "application/octet-stream",
        }
    }

    /// Opens it; nothing when there is no such file.
    pub(super) async fn open(self: &Arc<Self>) -> io::Result<Option<Opened>> {
        let Some((file, stamp)) = self.open_file()? else { return Ok(None) };
        if let Some(version) = self.known(stamp) {
            return Ok(Some(Opened { file, version }));
        }
        let _alone = self.learning.lock().await;
        if let Some(version) = self.known(stamp) {
            return Ok(Some(Opened { file, version }));
        }
        let this = self.clone();
        let (file, version) = tokio::task::spawn_blocking(move || {
            let version = this.learn(&file)?;
            io::Result::Ok((file, version))
        })
        .await??;
        let version = Arc::new(version);
        *self.known.lock() = Some(version.clone());
        Ok(Some(Opened { file, version }))
    }

    /// What is known of the content that it has now.
    pub(super) async fn version(self: &Arc<Self>) -> io::Result<Option<Arc<Version>>> {
        Ok(self.open().await?.map(|opened| opened.version))
    }

    fn known(&self, stamp: Stamp) -> Option<Arc<Version>> {
        self.known.lock().clone().filter(|version| version.stamp == stamp)
    }

    fn open_file(&self) -> io::Result<Option<(File, Stamp)>> {
        // Without waiting for a writer, should it be a pipe.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        Ok(meta.is_file().then(|| (file, Stamp::from(&meta))))
    }

    /// Finds out what the file's content is.
    fn learn(&self, file: &File) -> io::Result<Version> {
        // A file that is written in place changes under the reader: then it is begun again.
        for _ in 0..3 {
            let meta = file.metadata()?;
            let (stamp, size, modified) = (Stamp::from(&meta), meta.len(), meta.modified()?);
            if let Some(sha256) = self.recorded(stamp) {
                return Ok(Version { stamp, size, sha256, modified });
            }
            tracing::debug!(file = %self.path.display(), "computing its digest");
            let sha256 = digest(file)?;
            if Stamp::from(&file.metadata()?) == stamp {
                return Ok(Version { stamp, size, sha256, modified });
            }
        }
        Err(io::Error::other("it is being written at this moment"))
    }

    /// The digest that the build has recorded of this content.
    fn recorded(&self, stamp: Stamp) -> Option<String> {
        let (artifacts, image) = &self.of;
        let record = Records::open(artifacts, false).ok()?.read(image)?;
        let made =
            record.outputs.into_iter().find(|made| artifacts.join(&made.file) == self.path)?;
        (made.stamp == stamp).then_some(made.sha256)
    }
}

fn digest(file: &File) -> io::Result<String> {
    let mut sha256 = Sha256::new();
    let mut buffer = vec![0; READ];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hex(&sha256.finalize())),
            Ok(read) => {
                sha256.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

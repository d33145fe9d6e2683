//! The server's side of `overcoat seal`: seals a mounted tree while it stays mounted.
//!
//! Invariants:
//! - The tree cannot change during a seal, so a seal must not block for ever: it is aborted when
//!   its client disconnects, when the reader of its output reads nothing for [`READER_TIMEOUT`],
//!   and when the mount shuts down.
//! - Only one seal runs at a time. Other requests are handled meanwhile.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fs_model::acl::Acl;
use fs_model::delta::Contents;
use fs_model::layer::Xattr;
use fs_model::{FsError, Ino, Tree};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use provisioners::image::manifest_path;

use crate::fuse::{Faults, LostData};
use crate::image::open::OpenedLayers;
use crate::manifest::lower::lower_records;
use crate::mount::control::{self, ControlReply, ControlRequest, SealRequest, Sealed};
use crate::seal::poll_writer::{PollLimits, PollWriter};
use crate::seal::report::archive_report;
use crate::seal::{
    Format, ManifestInfo, Output, PATH_TOO_LONG_ADVICE, SealError, SealOptions, seal,
};
use crate::text::error::describe;

/// Maximum time for which the reader of a seal's output may read nothing.
const READER_TIMEOUT: Duration = Duration::from_secs(60);

/// An error of a seal that a client requested.
#[derive(Debug, thiserror::Error)]
enum MountSealError {
    #[error("the server does not support this format")]
    UnknownFormat,
    #[error("the request names no output")]
    NoOutput,
    #[error("{0}: delete these files, or mount with a larger --upper-size and write them again")]
    LostData(LostData),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Tree(#[from] FsError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Seals the tree of a mount on request.
pub(crate) struct Sealer {
    tree: Arc<Tree>,
    layers: OpenedLayers,
    /// The errors behind the mount.
    faults: Arc<Faults>,
    /// Held during a seal.
    seal_lock: Mutex<()>,
    /// Readable, at end of file, once seals are to be aborted.
    abort_reader: PipeReader,
    /// Dropped to abort all seals.
    abort_writer: Mutex<Option<PipeWriter>>,
}

impl Sealer {
    pub(crate) fn new(
        tree: Arc<Tree>,
        layers: OpenedLayers,
        faults: Arc<Faults>,
    ) -> io::Result<Self> {
        let (abort_reader, abort_writer) = io::pipe()?;
        let abort_writer = Mutex::new(Some(abort_writer));
        let seal_lock = Mutex::new(());
        Ok(Sealer { tree, layers, faults, seal_lock, abort_reader, abort_writer })
    }

    /// Aborts the running seal and all later ones.
    pub(crate) fn abort(&self) {
        drop(self.abort_writer.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Handles clients until the process exits.
    pub(crate) fn listen(self: &Arc<Self>, listener: &UnixListener) {
        // Connections of clients that wait for this process to exit, which closes them.
        let waiting = Arc::new(Mutex::new(Vec::new()));
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let (sealer, waiting) = (self.clone(), waiting.clone());
            let handle = move || match sealer.handle_client(&stream) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    waiting.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                }
                Err(error) => tracing::warn!(%error, "lost the connection to a client"),
            };
            if let Err(error) = std::thread::Builder::new().name("client".into()).spawn(handle) {
                tracing::warn!(%error, "cannot start a thread for a client");
            }
        }
    }

    fn handle_client(&self, stream: &UnixStream) -> io::Result<()> {
        control::check_peer(stream)?;
        let (request, fd) = control::receive::<ControlRequest>(stream)?;
        let request = match request {
            ControlRequest::GiveUp => {
                self.abort();
                return Ok(());
            }
            ControlRequest::Seal(request) => request,
        };
        let answer = match self.seal(&request, fd.map(File::from), stream) {
            Ok(sealed) => ControlReply::Sealed(sealed),
            Err(_) if any_readable([self.abort_reader.as_fd()]) => {
                ControlReply::Failed("seal aborted: the root was unmounted".to_owned())
            }
            Err(MountSealError::Tree(error @ FsError::PathTooLong { .. })) => {
                ControlReply::Failed(format!("{error}; {PATH_TOO_LONG_ADVICE}"))
            }
            Err(error) => ControlReply::Failed(describe(&error)),
        };
        control::send(stream, &answer, None)
    }

    fn seal(
        &self,
        request: &SealRequest,
        fd: Option<File>,
        client: &UnixStream,
    ) -> Result<Sealed, MountSealError> {
        let format = Format::from_name(&request.format).ok_or(MountSealError::UnknownFormat)?;
        let defaults = SealOptions::new(format);
        let settings = SealOptions {
            level: request.level,
            threads: request.threads.map_or(defaults.threads, usize::from),
            source_date_epoch: request.source_date_epoch,
            ..defaults
        };
        let _guard = self.seal_lock.lock().unwrap_or_else(PoisonError::into_inner);
        let archive = match (&request.output, fd) {
            (output, Some(fd)) => {
                let ends = vec![self.abort_reader.try_clone()?.into(), client.try_clone()?.into()];
                let to = PollWriter::new(fd, PollLimits { bound: READER_TIMEOUT, ends })?;
                let name = output.as_ref().map(|path| path.display().to_string());
                Output::given(to, name.as_deref().unwrap_or("standard output"))
            }
            (Some(path), None) => Output::file(path)?,
            (None, None) => return Err(MountSealError::NoOutput),
        };
        let manifest = match &request.output {
            Some(path) if request.manifest => {
                let output = Output::file(&manifest_path(path))?;
                Some((output, self.layers.digest()?.finish()))
            }
            _ => None,
        };
        // Changes by programs wait until this is dropped.
        let _frozen = self.tree.freeze();
        let delta = self.tree.delta()?.with_root(self.tree.attr(Ino::ROOT)?);
        if let Some(lost) = self.faults.lost_data(&delta) {
            return Err(MountSealError::LostData(lost));
        }
        let manifest = match manifest {
            Some((output, layers)) => {
                let lower = lower_records(&delta, self.tree.layers())?;
                Some((output, ManifestInfo { layers, lower }))
            }
            None => None,
        };
        let ends = [self.abort_reader.as_fd(), client.as_fd()];
        let contents = AbortableContents { tree: &self.tree, ends };
        let summary = seal(&delta, &contents, &settings, archive, manifest, &mut |_| {})?;
        let output = request.output.clone().unwrap_or_else(|| "-".into());
        Ok(Sealed { report: archive_report(&output, &summary, &[]), warnings: summary.warnings })
    }
}

/// Returns whether any descriptor is readable or was closed by its peer.
fn any_readable<const N: usize>(fds: [BorrowedFd<'_>; N]) -> bool {
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// The contents of a tree, whose reads fail once the seal is to be aborted.
struct AbortableContents<'a> {
    tree: &'a Tree,
    /// Descriptors that become readable when the mount shuts down or the client disconnects. (A
    /// client sends nothing after its request, so its connection is readable only at end of file.)
    ends: [BorrowedFd<'a>; 2],
}

impl AbortableContents<'_> {
    fn check(&self) -> Result<(), FsError> {
        match any_readable(self.ends) {
            true => Err(FsError::Interrupted),
            false => Ok(()),
        }
    }
}

impl Contents for AbortableContents<'_> {
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        self.check()?;
        Contents::read(self.tree, ino, offset, buf)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<Range<u64>>, FsError> {
        self.check()?;
        Contents::next_data(self.tree, ino, offset)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        Contents::read_link(self.tree, ino)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        Contents::xattrs(self.tree, ino)
    }

    fn access_list(&self, ino: Ino) -> Result<Option<Acl>, FsError> {
        Contents::access_list(self.tree, ino)
    }
}

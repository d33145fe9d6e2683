//! The server's side of `overcoat seal`: a mounted tree is sealed while it goes on.
//!
//! Invariants:
//! - Nothing changes while a seal is under way, so nothing may hold one up for ever: it ends when
//!   its client goes, when whoever reads its output takes nothing for [`PATIENCE`], and when the
//!   mount is to end.
//! - One seal at a time. Who only waits, or gives up, is heard meanwhile.

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

use super::control::{self, Answer, Request, SealRequest, Sealed};
use super::options::{self, report_json};
use super::{Failure, describe};
use crate::below::lower_records;
use crate::layers::OpenedLayers;
use crate::seal::patient::{PollLimits, PollWriter};
use crate::seal::{Format, ManifestInfo, Output, SealOptions, seal};

/// How long a reader of a seal may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Seals the tree of a mount, when asked to.
pub(super) struct Sealer {
    tree: Arc<Tree>,
    layers: OpenedLayers,
    one_at_a_time: Mutex<()>,
    ended: PipeReader,
    /// Gone when all seals are to be given up, which the other end of the pipe tells.
    goes_on: Mutex<Option<PipeWriter>>,
}

impl Sealer {
    pub(super) fn new(tree: Arc<Tree>, layers: OpenedLayers) -> io::Result<Self> {
        let (ended, goes_on) = io::pipe()?;
        let goes_on = Mutex::new(Some(goes_on));
        Ok(Sealer { tree, layers, one_at_a_time: Mutex::new(()), ended, goes_on })
    }

    /// Ends the seal that is under way, and any other.
    pub(super) fn give_up(&self) {
        drop(self.goes_on.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Hears clients until the process ends.
    pub(super) fn listen(self: &Arc<Self>, listener: &UnixListener) {
        // Clients that only wait for the end of this process: their connection ends with it.
        let waiting = Arc::new(Mutex::new(Vec::new()));
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let (sealer, waiting) = (self.clone(), waiting.clone());
            let talk = move || match sealer.talk(&stream) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
                    waiting.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                }
                Err(error) => tracing::warn!(%error, "a conversation with a client broke off"),
            };
            if let Err(error) = std::thread::Builder::new().name("client".into()).spawn(talk) {
                tracing::warn!(%error, "no thread for a client");
            }
        }
    }

    fn talk(&self, stream: &UnixStream) -> io::Result<()> {
        control::check_peer(stream)?;
        let (request, fd) = control::receive::<Request>(stream)?;
        let request = match request {
            Request::GiveUp => {
                self.give_up();
                return Ok(());
            }
            Request::Seal(request) => request,
        };
        let answer = match self.seal(&request, fd.map(File::from), stream) {
            Ok(sealed) => Answer::Sealed(sealed),
            Err(_) if any_readable([self.ended.as_fd()]) => {
                Answer::Failed("the mount was asked to end, so the seal was given up".to_owned())
            }
            Err(Failure::Error(_, error)) => Answer::Failed(describe(&*error)),
            Err(Failure::Signal(signal)) => Answer::Failed(format!("signal {signal}")),
            Err(Failure::Enough) => Answer::Failed("nobody reads it".to_owned()),
        };
        control::send(stream, &answer, None)
    }

    fn seal(
        &self,
        request: &SealRequest,
        fd: Option<File>,
        client: &UnixStream,
    ) -> Result<Sealed, Failure> {
        let format = Format::ALL
            .into_iter()
            .find(|format| format.name() == request.format)
            .ok_or_else(|| Failure::message("a format that this server does not know"))?;
        let defaults = SealOptions::new(format);
        let settings = SealOptions {
            level: request.level,
            threads: request.threads.map_or(defaults.threads, usize::from),
            source_date_epoch: request.source_date_epoch,
            ..defaults
        };
        let _alone = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let archive = match (&request.output, fd) {
            (output, Some(fd)) => {
                let ends = vec![self.ended.try_clone()?.into(), client.try_clone()?.into()];
                let to = PollWriter::new(fd, PollLimits { bound: PATIENCE, ends })?;
                let name = output.as_ref().map(|path| path.display().to_string());
                Output::given(to, name.as_deref().unwrap_or("standard output"))
            }
            (Some(path), None) => Output::file(path)?,
            (None, None) => return Err(Failure::message("the request names no output")),
        };
        let manifest = match &request.output {
            Some(path) if request.manifest => {
                let output = Output::file(&options::manifest_path(path))?;
                Some((output, self.layers.digest()?.finish()))
            }
            _ => None,
        };
        // What changes meanwhile waits.
        let _frozen = self.tree.freeze();
        let delta = self.tree.delta()?.with_root(self.tree.attr(Ino::ROOT)?);
        let manifest = match manifest {
            Some((output, layers)) => {
                let lower = lower_records(&delta, self.tree.layers())?;
                Some((output, ManifestInfo { layers, lower }))
            }
            None => None,
        };
        let contents = WhileAsked { tree: &self.tree, ends: [self.ended.as_fd(), client.as_fd()] };
        let summary = seal(&delta, &contents, &settings, archive, manifest, &mut |_| {})?;
        let output = request.output.clone().unwrap_or_else(|| "-".into());
        Ok(Sealed { report: report_json(&output, &summary), warnings: summary.warnings })
    }
}

/// Whether of any there is something to read, or the other end is gone.
fn any_readable<const N: usize>(fds: [BorrowedFd<'_>; N]) -> bool {
    let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// A tree's contents, as long as somebody waits for what is made of them.
struct WhileAsked<'a> {
    tree: &'a Tree,
    /// What is readable when nobody does. (A client has said all that it had to say: what can be
    /// read is its end.)
    ends: [BorrowedFd<'a>; 2],
}

impl WhileAsked<'_> {
    fn check(&self) -> Result<(), FsError> {
        match any_readable(self.ends) {
            true => Err(FsError::Interrupted),
            false => Ok(()),
        }
    }
}

impl Contents for WhileAsked<'_> {
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

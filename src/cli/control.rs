//! How `seal` talks to the server of a mount.
//!
//! The server listens on a socket in the abstract namespace (so nothing lies in the file system and
//! nothing is left there), named after the mount's device number, which `stat` tells everybody.
//! Who may talk is decided by the peer's user id: the server's own or root's, and the client wants
//! the same of the server. A conversation is one JSON line each way, the request with a descriptor
//! beside it when the archive goes to the client's standard output or into a pipe. One that only says that seals
//! are to be given up has no answer.

use std::io;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use serde::{Deserialize, Serialize};

use crate::sandbox::{receive_message, send_message};
use crate::seal::Warning;

/// The longest request or answer, in bytes: an answer has all warnings in it.
const MESSAGE_LIMIT: usize = 256 << 20;

/// What a client wants.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    /// Seal what changed.
    Seal(SealRequest),
    /// The mount was taken away: nobody is to wait for a seal any more.
    GiveUp,
}

/// How to seal what changed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SealRequest {
    /// Where to, as an absolute path, and `None` for standard output. What is to be written is the
    /// descriptor that comes along, if one does.
    pub(super) output: Option<PathBuf>,
    pub(super) format: String,
    pub(super) level: Option<u32>,
    pub(super) threads: Option<u16>,
    pub(super) manifest: bool,
    pub(super) source_date_epoch: Option<u64>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is written.
    Sealed(Sealed),
    /// It is not; this is why.
    Failed(String),
}

/// What was written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sealed {
    pub(super) report: serde_json::Value,
    pub(super) warnings: Vec<Warning>,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The device number of its file system.
    pub(super) device: u64,
    /// Whether it is what is mounted, and not something in it.
    pub(super) is_mount_point: bool,
}

/// Where `dir` leads, without asking its server, which may stand still.
pub(super) fn place(dir: &Path) -> io::Result<Place> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(CWD, dir, flags, StatxFlags::TYPE)?;
    Ok(Place {
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        is_mount_point: found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

fn address(device: u64) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("overcoat/mount/{device:x}"))
}

/// Listens for those who want something of the mount with this device number.
///
/// The kernel gives a number out again as soon as a mount is gone, which is a little before its
/// server is: so a name that is taken is tried for a while.
pub(super) fn listen(device: u64) -> io::Result<UnixListener> {
    let give_up = Instant::now() + Duration::from_secs(3);
    loop {
        match UnixListener::bind_addr(&address(device)?) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Waits until the server behind `stream` has ended, for a while at least.
pub(super) fn wait_for_end(stream: &UnixStream) {
    // Either way there is nothing more to do: the mount is gone.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.shutdown(Shutdown::Write);
    let _ = receive_message(stream);
}

/// Connects to the server of the mount with this device number.
pub(super) fn connect(device: u64) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(&address(device)?)?;
    check_peer(&stream)?;
    Ok(stream)
}

/// Refuses to talk to anybody but root and the own user.
pub(super) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?.uid();
    let own = nix::unistd::geteuid().as_raw();
    if peer == 0 || peer == own || own == 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user's process answers"))
}

/// Sends a message, with a descriptor beside it.
pub(super) fn send<T: Serialize>(
    stream: &UnixStream,
    message: &T,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    send_message(stream, &line, fd)
}

/// Receives a message, and the descriptor beside it.
pub(super) fn receive<T: for<'a> Deserialize<'a>>(
    stream: &UnixStream,
) -> io::Result<(T, Option<OwnedFd>)> {
    let mut line = Vec::new();
    let mut fd = None;
    while line.last() != Some(&b'\n') {
        let (bytes, fds) = receive_message(stream)?;
        if bytes.is_empty() || line.len() + bytes.len() > MESSAGE_LIMIT {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&bytes);
        fd = fds.into_iter().next().or(fd);
    }
    Ok((serde_json::from_slice(&line)?, fd))
}

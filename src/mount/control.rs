//! Control protocol between `seal` or `umount` and the server of a mount.
//!
//! The server listens on a Unix socket in the abstract namespace, so no file is left behind. Its
//! name contains the mount's device number, which any user can get by `stat`. Both sides check the
//! peer's user id: it must be their own or root's, unless they run as root. A client sends one
//! request and receives one reply, each a line of JSON. A descriptor accompanies the request when
//! the archive goes to the client's standard output or to a FIFO. [`ControlRequest::GiveUp`] has no
//! reply.

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

/// Maximum length of a message in bytes. A reply contains all warnings.
const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// A request of a client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ControlRequest {
    /// Seal the changes.
    Seal(SealRequest),
    /// Abort running seals, because the root was unmounted.
    GiveUp,
}

/// Parameters of a seal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SealRequest {
    /// Absolute path of the archive, or `None` for standard output. If a descriptor accompanies the
    /// request, the archive is written to it, and the path is only a name.
    pub(crate) output: Option<PathBuf>,
    pub(crate) format: String,
    pub(crate) level: Option<u32>,
    pub(crate) threads: Option<u16>,
    pub(crate) manifest: bool,
    pub(crate) source_date_epoch: Option<u64>,
}

/// The reply to a seal request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ControlReply {
    /// The archive is written.
    Sealed(Sealed),
    /// The seal failed with this error message.
    Failed(String),
}

/// Report about a written archive.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sealed {
    pub(crate) report: serde_json::Value,
    pub(crate) warnings: Vec<Warning>,
}

/// The mount that a path is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MountPath {
    /// Device number of the file system.
    pub(crate) device: u64,
    /// Whether the path is the root of the mount.
    pub(crate) is_mount_point: bool,
}

/// Returns the mount that `dir` is in, without a request to its server, which may be blocked by a
/// seal.
pub(crate) fn find_mount(dir: &Path) -> io::Result<MountPath> {
    let flags = AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(CWD, dir, flags, StatxFlags::TYPE)?;
    Ok(MountPath {
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        is_mount_point: found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

fn address(device: u64) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("overcoat/mount/{device:x}"))
}

/// Binds the control socket of the mount with this device number.
///
/// The kernel reuses a device number as soon as a mount is gone, shortly before its server exits,
/// so binding is retried for three seconds while the name is in use.
pub(crate) fn listen(device: u64) -> io::Result<UnixListener> {
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

/// Waits up to five seconds for the server to exit.
pub(crate) fn wait_for_exit(stream: &UnixStream) {
    // Errors are ignored: the root is unmounted already.
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let _ = stream.shutdown(Shutdown::Write);
    let _ = receive_message(stream);
}

/// Connects to the server of the mount with this device number.
pub(crate) fn connect(device: u64) -> io::Result<UnixStream> {
    let stream = UnixStream::connect_addr(&address(device)?)?;
    check_peer(&stream)?;
    Ok(stream)
}

/// Returns an error unless the peer is root or has this process's user, or this process is root.
pub(crate) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?.uid();
    let own = nix::unistd::geteuid().as_raw();
    if peer == 0 || peer == own || own == 0 {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer is a process of another user"))
}

/// Sends a message with an optional descriptor.
pub(crate) fn send<T: Serialize>(
    stream: &UnixStream,
    message: &T,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    send_message(stream, &line, fd)
}

/// Receives a message and the descriptor that accompanies it.
pub(crate) fn receive<T: for<'a> Deserialize<'a>>(
    stream: &UnixStream,
) -> io::Result<(T, Option<OwnedFd>)> {
    let mut line = Vec::new();
    let mut fd = None;
    while line.last() != Some(&b'\n') {
        let (bytes, fds) = receive_message(stream)?;
        if bytes.is_empty() || line.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&bytes);
        fd = fds.into_iter().next().or(fd);
    }
    Ok((serde_json::from_slice(&line)?, fd))
}

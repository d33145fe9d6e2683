//! The messages between the daemon, the stage and pid 1.
//!
//! Each message is one packet of a SEQPACKET socket: a tag byte and the tag's data, with
//! descriptors. Data that can be large (a command's arguments and environment) is in an anonymous
//! file whose descriptor is sent with the message. Decoding never panics: a malformed message is an
//! error.

use std::ffi::OsString;
use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::command::ResourceLimits;
use super::error::StepFailure;

/// Stage to daemon: the namespaces are made; write the id maps.
pub(super) const UNSHARED: u8 = b'u';
/// Daemon to stage: the id maps are written.
pub(super) const MAPPED: u8 = b'i';
/// Stage to daemon: the root is mounted, at this path in the host's tree; with the FUSE descriptor
/// and the mount namespace of that path.
pub(super) const MOUNTED: u8 = b'm';
/// Daemon to stage: the root is served; continue.
pub(super) const ENTER: u8 = b'e';
/// Pid 1 to daemon: ready for commands; with the sandbox's device and namespaces, the mountinfo of
/// the commands' mount namespace, and the listener if any.
pub(super) const READY: u8 = b'r';
/// Either to daemon: a step failed; errno and what was being done.
pub(super) const FAILED: u8 = b'f';
/// Daemon to pid 1: start a command; with its [`SpawnSpec`], the socket that closes on exec, the
/// command's socket, its standard input, output and error, and, for a command that runs outside,
/// the mount namespace to run in.
pub(super) const SPAWN: u8 = b's';
/// Daemon to pid 1: change the host name and write files; with a file that holds a [`Show`].
pub(super) const SHOW: u8 = b'h';
/// Daemon to pid 1: open a pseudo terminal; with the socket for the reply.
pub(super) const OPEN_PTY: u8 = b'p';
/// Pid 1 to daemon, on that socket: the terminal's two ends.
pub(super) const PTY: u8 = b't';
/// Daemon to pid 1, on a command's socket: send a signal (i32).
pub(super) const SIGNAL: u8 = b'k';
/// Pid 1 to daemon, on a command's socket: the command ended with this raw wait status (i32).
pub(super) const EXITED: u8 = b'x';

/// The step in a command's [`FAILED`] message when everything was ready and `execve` failed.
pub(super) const EXECUTING: &str = "executing it";

/// Encodes a failed step as a message.
pub(super) fn failure_message(failure: &StepFailure) -> Vec<u8> {
    let mut message = vec![FAILED];
    message.extend_from_slice(&failure.errno.to_ne_bytes());
    let doing = failure.doing.as_bytes();
    message.extend_from_slice(&doing[..doing.len().min(2048)]);
    message
}

/// Decodes the failed step of a [`FAILED`] message; `rest` follows the tag.
pub(super) fn parse_failure(rest: &[u8]) -> StepFailure {
    let errno = parse_i32(rest).unwrap_or(libc::EPROTO);
    let doing = String::from_utf8_lossy(rest.get(4..).unwrap_or_default()).into_owned();
    StepFailure { doing, errno }
}

/// Returns the number at the start of `bytes`.
pub(super) fn parse_i32(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.first_chunk()?))
}

/// The process of a command, as pid 1 sets it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SpawnSpec {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<OsString>,
    pub(super) cwd: OsString,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) session: SpawnSession,
    pub(super) limits: Option<ResourceLimits>,
}

/// The host name and files that the sandbox shows in addition to the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Show {
    pub(super) hostname: OsString,
    /// Absolute paths and contents.
    pub(super) files: Vec<(OsString, Vec<u8>)>,
}

/// The session of the command's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SpawnSession {
    Inherited,
    Own,
    Terminal,
}

/// Encodes the data of a message.
pub(super) fn encode(data: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(data).map_err(|_| malformed())
}

/// Decodes the bytes of [`encode`].
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((data, [])) => Ok(data),
        _ => Err(malformed()),
    }
}

fn malformed() -> io::Error {
    io::Error::from_raw_os_error(libc::EPROTO)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn spawn_spec() -> SpawnSpec {
        SpawnSpec {
            argv: vec!["sh".into(), "-c".into(), OsString::from_vec(vec![0xff, b'x'])],
            env: vec!["A=b".into()],
            cwd: "/".into(),
            uid: 0,
            gid: 7,
            groups: vec![1, 2],
            session: SpawnSession::Terminal,
            limits: None,
        }
    }

    #[test]
    fn messages_round_trip() {
        let spec: SpawnSpec = decode(&encode(&spawn_spec()).unwrap()).unwrap();
        assert_eq!(spec, spawn_spec());
        let file = |path: &str, content: &[u8]| (OsString::from(path), content.to_vec());
        let show = Show {
            hostname: "node".into(),
            files: vec![file("/run/a", b"1\0"), file("/run/b/c", b"")],
        };
        assert_eq!(decode::<Show>(&encode(&show).unwrap()).unwrap(), show);
    }

    #[test]
    fn malformed_messages_are_errors() {
        let whole = encode(&spawn_spec()).unwrap();
        for length in 0..whole.len() {
            assert!(decode::<SpawnSpec>(&whole[..length]).is_err(), "{length}");
        }
        assert!(decode::<SpawnSpec>(&[whole.as_slice(), &[0]].concat()).is_err());
        assert!(decode::<SpawnSpec>(&[0xff; 64]).is_err());
    }
}

//! The messages between the daemon, the stage and pid 1.
//!
//! Each message is one packet of a SEQPACKET socket: a tag byte and the tag's data, with
//! descriptors. Data that can be large (a command's arguments and environment) is in an anonymous
//! file whose descriptor is sent with the message. Decoding never panics: a malformed message is an
//! error.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SpawnSpec {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<OsString>,
    pub(super) cwd: OsString,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) session: SpawnSession,
}

/// The host name and files that the sandbox shows in addition to the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Show {
    pub(super) hostname: OsString,
    /// Absolute paths and contents.
    pub(super) files: Vec<(PathBuf, Vec<u8>)>,
}

impl Show {
    /// Encodes this for [`Show::decode`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let text = |out: &mut Vec<u8>, text: &[u8]| {
            out.extend_from_slice(&(text.len() as u32).to_ne_bytes());
            out.extend_from_slice(text);
        };
        text(&mut out, self.hostname.as_bytes());
        for (path, content) in &self.files {
            text(&mut out, path.as_os_str().as_bytes());
            text(&mut out, content);
        }
        out
    }

    /// Decodes the bytes of [`Show::encode`].
    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut rest = Rest(bytes);
        let hostname = rest.text()?;
        let mut files = Vec::new();
        while !rest.0.is_empty() {
            files.push((rest.text()?.into(), rest.text()?.into_vec()));
        }
        Ok(Show { hostname, files })
    }
}

/// The session of the command's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpawnSession {
    Inherited,
    Own,
    Terminal,
}

impl SpawnSpec {
    /// Encodes this for [`SpawnSpec::decode`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        let number = |out: &mut Vec<u8>, number: u32| out.extend_from_slice(&number.to_ne_bytes());
        for list in [&self.argv, &self.env] {
            number(&mut out, list.len() as u32);
            for text in list {
                number(&mut out, text.len() as u32);
                out.extend_from_slice(text.as_bytes());
            }
        }
        number(&mut out, self.cwd.len() as u32);
        out.extend_from_slice(self.cwd.as_bytes());
        number(&mut out, self.uid);
        number(&mut out, self.gid);
        number(&mut out, self.groups.len() as u32);
        for &group in &self.groups {
            number(&mut out, group);
        }
        number(
            &mut out,
            match self.session {
                SpawnSession::Inherited => 0,
                SpawnSession::Own => 1,
                SpawnSession::Terminal => 2,
            },
        );
        out
    }

    /// Decodes the bytes of [`SpawnSpec::encode`].
    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut rest = Rest(bytes);
        let spec = SpawnSpec {
            argv: rest.texts()?,
            env: rest.texts()?,
            cwd: rest.text()?,
            uid: rest.number()?,
            gid: rest.number()?,
            groups: {
                let count = rest.number()?;
                (0..count).map(|_| rest.number()).collect::<io::Result<_>>()?
            },
            session: match rest.number()? {
                0 => SpawnSession::Inherited,
                1 => SpawnSession::Own,
                2 => SpawnSession::Terminal,
                _ => return Err(malformed()),
            },
        };
        if rest.0.is_empty() { Ok(spec) } else { Err(malformed()) }
    }
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn number(&mut self) -> io::Result<u32> {
        let (number, rest) = self.0.split_first_chunk().ok_or_else(malformed)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*number))
    }

    fn text(&mut self) -> io::Result<OsString> {
        let length = self.number()? as usize;
        let (text, rest) = self.0.split_at_checked(length).ok_or_else(malformed)?;
        self.0 = rest;
        Ok(OsString::from_vec(text.to_vec()))
    }

    fn texts(&mut self) -> io::Result<Vec<OsString>> {
        let count = self.number()?;
        (0..count).map(|_| self.text()).collect()
    }
}

fn malformed() -> io::Error {
    io::Error::from_raw_os_error(libc::EPROTO)
}

#[cfg(test)]
mod tests {
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
        }
    }

    #[test]
    fn spawn_spec_round_trips() {
        assert_eq!(SpawnSpec::decode(&spawn_spec().encode()).unwrap(), spawn_spec());
    }

    #[test]
    fn shown_files_round_trip() {
        let file = |path: &str, content: &[u8]| (PathBuf::from(path), content.to_vec());
        let show = Show {
            hostname: "node".into(),
            files: vec![file("/run/a", b"1\0"), file("/run/b/c", b"")],
        };
        assert_eq!(Show::decode(&show.encode()).unwrap(), show);
        assert!(Show::decode(&show.encode()[..10]).is_err());
    }

    #[test]
    fn truncated_spawn_spec_is_an_error() {
        let whole = spawn_spec().encode();
        for length in 0..whole.len() {
            assert!(SpawnSpec::decode(&whole[..length]).is_err(), "{length}");
        }
        assert!(SpawnSpec::decode(&[0xff; 64]).is_err());
    }
}

//! The messages between the daemon, the stage and pid 1.
//!
//! Each message is one packet of a SEQPACKET socket: a tag byte and what the tag says, with
//! descriptors beside it. What can be large (a command's arguments and environment) travels in an
//! anonymous file whose descriptor goes with the message. Decoding never panics: a malformed
//! message is an error.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::error::Failure;

/// Stage to daemon: the namespaces are made; write the id maps.
pub(super) const UNSHARED: u8 = b'u';
/// Daemon to stage: the id maps are written.
pub(super) const MAPPED: u8 = b'i';
/// Stage to daemon: the root is mounted, at this path in the host's tree; with the FUSE descriptor
/// and the mount namespace in which that is so.
pub(super) const MOUNTED: u8 = b'm';
/// Daemon to stage: the root answers now; go on.
pub(super) const ENTER: u8 = b'e';
/// Pid 1 to daemon: ready for commands; with the sandbox's device and namespaces, the mountinfo of
/// the commands' mount namespace, and the listener if any.
pub(super) const READY: u8 = b'r';
/// Either to daemon: a step failed; errno and what was being done.
pub(super) const FAILED: u8 = b'f';
/// Daemon to pid 1: start a command; with its order, the socket that closes at its exec, the
/// command's socket, its standard input, output and error, and for one that runs outside the mount
/// namespace for that.
pub(super) const SPAWN: u8 = b's';
/// Daemon to pid 1: change the host name and write files; with a file that holds a [`Show`].
pub(super) const SHOW: u8 = b'h';
/// Daemon to pid 1: open a pseudo terminal; with the socket to answer on.
pub(super) const OPEN_PTY: u8 = b'p';
/// Pid 1 to daemon, on that socket: the terminal's two ends.
pub(super) const PTY: u8 = b't';
/// Daemon to pid 1, on a command's socket: send a signal (i32).
pub(super) const SIGNAL: u8 = b'k';
/// Pid 1 to daemon, on a command's socket: it has ended, with this raw wait status (i32).
pub(super) const EXITED: u8 = b'x';

/// What a command's [`FAILED`] says when all was ready and the kernel refused the program.
pub(super) const EXECUTING: &str = "executing it";

/// A failed step as a message.
pub(super) fn failure_message(failure: &Failure) -> Vec<u8> {
    let mut message = vec![FAILED];
    message.extend_from_slice(&failure.errno.to_ne_bytes());
    let doing = failure.doing.as_bytes();
    message.extend_from_slice(&doing[..doing.len().min(2048)]);
    message
}

/// The step that a message of tag [`FAILED`] tells of; `rest` is what follows the tag.
pub(super) fn parse_failure(rest: &[u8]) -> Failure {
    let errno = parse_i32(rest).unwrap_or(libc::EPROTO);
    let doing = String::from_utf8_lossy(rest.get(4..).unwrap_or_default()).into_owned();
    Failure { doing, errno }
}

/// The number at the start of `bytes`.
pub(super) fn parse_i32(bytes: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*bytes.first_chunk()?))
}

/// How the command's process is set up, as pid 1 is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<OsString>,
    pub(super) cwd: OsString,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) session: Session,
}

/// What the sandbox shows beside the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Show {
    pub(super) hostname: OsString,
    /// Absolute paths and contents.
    pub(super) files: Vec<(PathBuf, Vec<u8>)>,
}

impl Show {
    /// The bytes that [`Show::decode`] takes.
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

    /// What [`Show::encode`] made `bytes` of.
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

/// Which session the command's process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    Inherited,
    Own,
    Terminal,
}

impl Order {
    /// The bytes that [`Order::decode`] takes.
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
                Session::Inherited => 0,
                Session::Own => 1,
                Session::Terminal => 2,
            },
        );
        out
    }

    /// The order in `bytes`, which [`Order::encode`] made.
    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let mut rest = Rest(bytes);
        let order = Order {
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
                0 => Session::Inherited,
                1 => Session::Own,
                2 => Session::Terminal,
                _ => return Err(malformed()),
            },
        };
        if rest.0.is_empty() { Ok(order) } else { Err(malformed()) }
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

    fn order() -> Order {
        Order {
            argv: vec!["sh".into(), "-c".into(), OsString::from_vec(vec![0xff, b'x'])],
            env: vec!["A=b".into()],
            cwd: "/".into(),
            uid: 0,
            gid: 7,
            groups: vec![1, 2],
            session: Session::Terminal,
        }
    }

    #[test]
    fn an_order_survives_the_wire() {
        assert_eq!(Order::decode(&order().encode()).unwrap(), order());
    }

    #[test]
    fn files_to_show_survive_the_wire() {
        let file = |path: &str, content: &[u8]| (PathBuf::from(path), content.to_vec());
        let show = Show {
            hostname: "node".into(),
            files: vec![file("/run/a", b"1\0"), file("/run/b/c", b"")],
        };
        assert_eq!(Show::decode(&show.encode()).unwrap(), show);
        assert!(Show::decode(&show.encode()[..10]).is_err());
    }

    #[test]
    fn a_truncated_order_is_an_error() {
        let whole = order().encode();
        for length in 0..whole.len() {
            assert!(Order::decode(&whole[..length]).is_err(), "{length}");
        }
        assert!(Order::decode(&[0xff; 64]).is_err());
    }
}

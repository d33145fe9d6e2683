//! What tells from inside a machine that it is up, and runs a command there: an overlay of its own
//! over all others, made in memory.
//!
//! It holds a unit of systemd and a script, which talk over the second serial port, and nothing of
//! it is in any artifact. Lines of the script:
//!
//! ```text
//! overcoat-agent 1
//! state running | degraded | …        as `systemctl is-system-running` says
//! failed UNIT                         one for each unit that failed
//! memory total KIB                    and `memory available KIB`
//! ready
//! begin NONCE                         what the command prints follows, as it is
//! end NONCE CODE                      after a line feed
//! ```

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;

use fs_model::Ino;
use fs_model::tree::XattrSupport;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::BootError;
use crate::live::{Lay, Live, Meta};
use crate::root::{RootOptions, UnstartedRoot};
use crate::sandbox::Network;
use crate::seal::{Format, Output, SealOptions, seal};

/// A line of the agent's is not longer than this, in bytes, nor are there more units that failed: a
/// machine that says more takes no memory by it.
const LONGEST: usize = 4096;
const MOST_UNITS: usize = 1000;

/// More than the agent needs, in bytes.
const UPPER_LIMIT: u64 = 16 << 20;

const UNIT: &str = "[Unit]
Description=Tells overcoat that the machine is up
After=multi-user.target

[Service]
Type=simple
ExecStart=/bin/sh /usr/lib/overcoat/boot-agent
StandardInput=null
";

/// Of the unit that systemd makes for the console that the kernel has.
const LOG_IN: &str = "[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 - $TERM
";

const SCRIPT: &str = r#"port=/dev/ttyS1
stty -F "$port" raw -echo || :
exec 3>"$port"
say() { printf '%s\n' "$*" >&3; }
say overcoat-agent 1
state=$(systemctl is-system-running --wait 2>/dev/null) || :
say state "${state:-unknown}"
systemctl list-units --failed --plain --no-legend --full | while read -r unit rest; do
  say failed "$unit"
done
while read -r name value unit; do
  case $name in
    MemTotal:) say memory total "$value" ;;
    MemAvailable:) say memory available "$value" ;;
  esac
done </proc/meminfo
say ready
cd /usr/lib/overcoat
if [ -e boot-command ]; then
  nonce=$(cat boot-nonce)
  say begin "$nonce"
  code=0
  (cd / && exec sh /usr/lib/overcoat/boot-command) </dev/null >&3 2>&1 || code=$?
  printf '\nend %s %s\n' "$nonce" "$code" >&3
fi
"#;

/// What the overlay is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// It tells that the machine is up, and runs a command by `sh` then, what it prints marked with
    /// a word that nobody says by accident.
    Tell {
        /// The command, if there is one.
        command: Option<&'a str>,
        /// The word.
        nonce: &'a str,
    },
    /// It has root logged in on the serial console.
    LogIn,
}

/// The overlay for a machine that is made of `layers`, as cpio.gz, to lie over all of them.
///
/// # Errors
/// When the layers cannot be read.
pub fn overlay(layers: Vec<PathBuf>, purpose: Purpose<'_>) -> Result<Vec<u8>, BootError> {
    let composed = UnstartedRoot::new(RootOptions {
        layers,
        upper_limit: UPPER_LIMIT,
        xattrs: XattrSupport::None,
        network: Network::None,
        binds: Vec::new(),
        apt_proxy: None,
        digests: false,
        report: |_| {},
    })?;
    let live = Live::new(composed.tree().clone());
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: None };
    let put = |path: &str, content: &str| {
        live.put_file(path.as_bytes(), &mut content.as_bytes(), &meta, Lay::Captured)
    };
    match purpose {
        Purpose::LogIn => {
            put("/etc/systemd/system/serial-getty@ttyS0.service.d/overcoat.conf", LOG_IN)?;
        }
        Purpose::Tell { command, nonce } => {
            put("/etc/systemd/system/overcoat-boot-agent.service", UNIT)?;
            put("/usr/lib/overcoat/boot-agent", SCRIPT)?;
            put("/usr/lib/overcoat/boot-nonce", nonce)?;
            if let Some(command) = command {
                put("/usr/lib/overcoat/boot-command", command)?;
            }
            live.put_symlink(
                b"/etc/systemd/system/multi-user.target.wants/overcoat-boot-agent.service",
                b"../overcoat-boot-agent.service",
                &meta,
                Lay::Captured,
            )?;
        }
    }
    let tree = live.tree();
    let delta = tree.delta()?.with_root(tree.attr(Ino::ROOT)?);
    let file = memfd_create(c"overlay", MFdFlags::MFD_CLOEXEC).map_err(std::io::Error::from)?;
    let mut file = File::from(file);
    let output = Output::opened(file.try_clone()?, "memory");
    let options = SealOptions::new(Format::CpioGz);
    seal(&delta, &**tree, &options, output, None, &mut |_| {})?;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the agent has said.
#[derive(Debug, Default)]
pub struct Talk {
    /// What came and was not understood yet.
    rest: Vec<u8>,
    /// The state of the system, as it says itself.
    pub state: Option<String>,
    /// Units that failed.
    pub failed: Vec<String>,
    /// Memory in all and what is available of it, in KiB.
    pub memory: (u64, u64),
    /// Whether anything came at all.
    pub heard: bool,
    /// Whether the machine is up.
    pub ready: bool,
    running: Option<Vec<u8>>,
    /// The exit code of the command, once it has ended.
    pub code: Option<i32>,
}

impl Talk {
    /// Takes in what came, and gives the command's own words to `output`.
    pub fn take(&mut self, bytes: &[u8], output: &mut dyn FnMut(&[u8])) {
        self.heard |= !bytes.is_empty();
        self.rest.extend_from_slice(bytes);
        loop {
            if let Some(nonce) = self.running.clone() {
                let mark = [b"\nend ".as_slice(), &nonce, b" "].concat();
                let Some(at) = find(&self.rest, &mark) else {
                    // What may be the beginning of the mark is kept.
                    let keep = mark.len() - 1;
                    let ready = self.rest.len().saturating_sub(keep);
                    output(&self.rest[..ready]);
                    self.rest.drain(..ready);
                    return;
                };
                let code = &self.rest[at + mark.len()..];
                let Some(end) = find(code, b"\n").or((code.len() > LONGEST).then_some(0)) else {
                    return;
                };
                output(&self.rest[..at]);
                let code = String::from_utf8_lossy(&self.rest[at + mark.len()..][..end]);
                self.code = Some(code.trim().parse().unwrap_or(255));
                self.rest.clear();
                self.running = None;
                return;
            }
            let Some(end) = find(&self.rest, b"\n") else {
                if self.rest.len() > LONGEST {
                    self.rest.clear();
                }
                return;
            };
            let line = String::from_utf8_lossy(&self.rest[..end]).trim_end().to_owned();
            self.rest.drain(..=end);
            self.line(&line);
        }
    }

    fn line(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("state", state)) => self.state = Some(state.to_owned()),
            Some(("failed", unit)) if self.failed.len() < MOST_UNITS => {
                self.failed.push(unit.to_owned());
            }
            Some(("memory", rest)) => match rest.split_once(' ') {
                Some(("total", kib)) => self.memory.0 = kib.parse().unwrap_or(0),
                Some(("available", kib)) => self.memory.1 = kib.parse().unwrap_or(0),
                _ => {}
            },
            Some(("begin", nonce)) => self.running = Some(nonce.as_bytes().to_vec()),
            _ if line == "ready" => self.ready = true,
            _ => {}
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that the command said, however what came was cut.
    fn said(talk: &[u8], cut: usize) -> (Talk, Vec<u8>) {
        let mut heard = Talk::default();
        let mut output = Vec::new();
        for part in talk.chunks(cut) {
            heard.take(part, &mut |bytes| output.extend_from_slice(bytes));
        }
        (heard, output)
    }

    #[test]
    fn what_a_command_says_comes_as_it_is_however_it_is_cut() {
        let talk = b"overcoat-agent 1\nstate degraded\nfailed a.service\nmemory total 10\n\
                     memory available 4\nready\nbegin n1\nhello\nend n\nend n2 3\n\xff\0\nend n1 7\n";
        for cut in 1..talk.len() {
            let (heard, output) = said(talk, cut);
            assert_eq!(output, b"hello\nend n\nend n2 3\n\xff\0", "{cut}");
            assert_eq!((heard.code, heard.ready), (Some(7), true));
            assert_eq!(heard.state.as_deref(), Some("degraded"));
            assert_eq!(heard.failed, ["a.service"]);
            assert_eq!(heard.memory, (10, 4));
        }
    }

    #[test]
    fn a_machine_that_says_too_much_takes_no_memory() {
        let mut heard = Talk::default();
        let mut output = 0;
        for _ in 0..100 {
            heard.take(&[b'x'; 1000], &mut |_| {});
            heard.take(b"\nfailed unit", &mut |_| {});
        }
        assert!(heard.rest.len() <= LONGEST + 1000);
        (0..2 * MOST_UNITS).for_each(|_| heard.take(b"\nfailed unit", &mut |_| {}));
        assert_eq!(heard.failed.len(), MOST_UNITS);
        heard.take(b"\nbegin n\nabc\nend n ", &mut |bytes| output += bytes.len());
        (0..100).for_each(|_| heard.take(&[b'7'; 1000], &mut |bytes| output += bytes.len()));
        assert_eq!((output, heard.code, heard.rest.len() < 2 * LONGEST), (3, Some(255), true));
    }

    #[test]
    fn words_like_the_agents_on_the_console_mean_nothing_before_it_begins() {
        let (heard, output) = said(b"noise\nreadyx\nstate\n", 3);
        assert!(!heard.ready && heard.state.is_none() && output.is_empty());
    }
}

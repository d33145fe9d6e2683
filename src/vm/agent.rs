//! The overlay that reports from inside a machine that it is up, and runs a command there. It is
//! made in memory and stacked over all other overlays.
//!
//! It holds a systemd unit and a script that writes to the second serial port. No artifact contains
//! any of it. The script writes these lines:
//!
//! ```text
//! overcoat-agent 1
//! state running | degraded | …        output of `systemctl is-system-running`
//! failed UNIT                         one line per failed unit
//! memory total KIB                    and `memory available KIB`
//! ready
//! begin NONCE                         the command's raw output follows
//! end NONCE CODE                      preceded by a line feed
//! ```

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;

use fs_model::Ino;
use fs_model::tree::XattrSupport;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::BootError;
use crate::root::mounted_tree::{CreateAs, Meta, MountedTree};
use crate::root::supervise::ReportFn;
use crate::root::{RootOptions, UnstartedRoot};
use crate::sandbox::Network;
use crate::seal::{Format, Output, SealOptions, seal};

/// Maximum length of the agent's lines, in bytes: bounds the memory that a machine can use up.
const MAX_LINE_LENGTH: usize = 4096;
/// Maximum number of failed units that are recorded, for the same reason.
const MAX_FAILED_UNITS: usize = 1000;

/// Limit of the upper layer, in bytes; the agent needs less.
const UPPER_LIMIT: u64 = 16 << 20;

const UNIT: &str = "[Unit]
Description=Report to overcoat that the machine is up
After=multi-user.target

[Service]
Type=simple
ExecStart=/bin/sh /usr/lib/overcoat/boot-agent
StandardInput=null
";

/// A drop-in for the unit that systemd generates for the kernel's console.
const LOG_IN: &str = "[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --keep-baud 115200,57600,38400,9600 - $TERM
";

const SCRIPT: &str = r#"port=/dev/ttyS1
stty -F "$port" raw -echo || :
exec 3>"$port"
report() { printf '%s\n' "$*" >&3; }
report overcoat-agent 1
state=$(systemctl is-system-running --wait 2>/dev/null) || :
report state "${state:-unknown}"
systemctl list-units --failed --plain --no-legend --full | while read -r unit rest; do
  report failed "$unit"
done
while read -r name value unit; do
  case $name in
    MemTotal:) report memory total "$value" ;;
    MemAvailable:) report memory available "$value" ;;
  esac
done </proc/meminfo
report ready
cd /usr/lib/overcoat
if [ -e boot-command ]; then
  nonce=$(cat boot-nonce)
  report begin "$nonce"
  code=0
  (cd / && exec sh /usr/lib/overcoat/boot-command) </dev/null >&3 2>&1 || code=$?
  printf '\nend %s %s\n' "$nonce" "$code" >&3
fi
"#;

/// The function of the overlay.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// It reports that the machine is up, then runs a command with `sh` and marks its output with
    /// `nonce`.
    Report {
        /// The command, if there is one.
        command: Option<&'a str>,
        /// A string that does not occur in the output by accident.
        nonce: &'a str,
    },
    /// It logs root in on the serial console.
    LogIn,
}

/// Returns the overlay for a machine that consists of `layers`, as a cpio.gz archive to be stacked
/// over all of them.
///
/// # Errors
/// Fails if the layers cannot be read.
pub(crate) fn overlay(layers: Vec<PathBuf>, purpose: Purpose<'_>) -> Result<Vec<u8>, BootError> {
    let composed = UnstartedRoot::new(RootOptions {
        layers,
        upper_limit: UPPER_LIMIT,
        xattrs: XattrSupport::None,
        network: Network::None,
        binds: Vec::new(),
        apt_proxy: None,
        digests: false,
        memory_files: None,
        report: ReportFn::default(),
    })?;
    let mounted_tree = MountedTree::new(composed.tree().clone());
    let meta = Meta { mode: 0o644, uid: 0, gid: 0, mtime: None };
    let put = |path: &str, content: &str| {
        mounted_tree.put_file(path.as_bytes(), &mut content.as_bytes(), &meta, CreateAs::ImageEntry)
    };
    match purpose {
        Purpose::LogIn => {
            put("/etc/systemd/system/serial-getty@ttyS0.service.d/overcoat.conf", LOG_IN)?;
        }
        Purpose::Report { command, nonce } => {
            put("/etc/systemd/system/overcoat-boot-agent.service", UNIT)?;
            put("/usr/lib/overcoat/boot-agent", SCRIPT)?;
            put("/usr/lib/overcoat/boot-nonce", nonce)?;
            if let Some(command) = command {
                put("/usr/lib/overcoat/boot-command", command)?;
            }
            mounted_tree.put_symlink(
                b"/etc/systemd/system/multi-user.target.wants/overcoat-boot-agent.service",
                b"../overcoat-boot-agent.service",
                &meta,
                CreateAs::ImageEntry,
            )?;
        }
    }
    let tree = mounted_tree.tree();
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

/// The state that the agent has reported.
#[derive(Debug, Default)]
pub(crate) struct AgentReport {
    /// Received bytes that are not parsed yet.
    rest: Vec<u8>,
    /// The output of `systemctl is-system-running`.
    pub state: Option<String>,
    /// The failed units.
    pub failed: Vec<String>,
    /// Total and available memory, in KiB.
    pub memory: (u64, u64),
    /// Whether anything was received.
    pub received: bool,
    /// Whether the agent has reported that the machine is up.
    pub ready: bool,
    running: Option<Vec<u8>>,
    /// The exit code of the command, once it has exited.
    pub code: Option<i32>,
}

impl AgentReport {
    /// Parses received bytes, and passes the output of the command to `output`.
    pub(crate) fn take(&mut self, bytes: &[u8], output: &mut dyn FnMut(&[u8])) {
        self.received |= !bytes.is_empty();
        self.rest.extend_from_slice(bytes);
        loop {
            if let Some(nonce) = self.running.clone() {
                let mark = [b"\nend ".as_slice(), &nonce, b" "].concat();
                let Some(at) = find(&self.rest, &mark) else {
                    // Keep a possible beginning of the mark.
                    let keep = mark.len() - 1;
                    let ready = self.rest.len().saturating_sub(keep);
                    output(&self.rest[..ready]);
                    self.rest.drain(..ready);
                    return;
                };
                let code = &self.rest[at + mark.len()..];
                let Some(end) = find(code, b"\n").or((code.len() > MAX_LINE_LENGTH).then_some(0))
                else {
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
                if self.rest.len() > MAX_LINE_LENGTH {
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
            Some(("failed", unit)) if self.failed.len() < MAX_FAILED_UNITS => {
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

    /// Parses `talk` in parts of `cut` bytes; returns the state and the output of the command.
    fn parse(talk: &[u8], cut: usize) -> (AgentReport, Vec<u8>) {
        let mut report = AgentReport::default();
        let mut output = Vec::new();
        for part in talk.chunks(cut) {
            report.take(part, &mut |bytes| output.extend_from_slice(bytes));
        }
        (report, output)
    }

    #[test]
    fn output_is_passed_on_unchanged_for_any_chunk_size() {
        let talk = b"overcoat-agent 1\nstate degraded\nfailed a.service\nmemory total 10\n\
                     memory available 4\nready\nbegin n1\nhello\nend n\nend n2 3\n\xff\0\nend n1 7\n";
        for cut in 1..talk.len() {
            let (report, output) = parse(talk, cut);
            assert_eq!(output, b"hello\nend n\nend n2 3\n\xff\0", "{cut}");
            assert_eq!((report.code, report.ready), (Some(7), true));
            assert_eq!(report.state.as_deref(), Some("degraded"));
            assert_eq!(report.failed, ["a.service"]);
            assert_eq!(report.memory, (10, 4));
        }
    }

    #[test]
    fn long_lines_and_many_units_use_bounded_memory() {
        let mut report = AgentReport::default();
        let mut output = 0;
        for _ in 0..100 {
            report.take(&[b'x'; 1000], &mut |_| {});
            report.take(b"\nfailed unit", &mut |_| {});
        }
        assert!(report.rest.len() <= MAX_LINE_LENGTH + 1000);
        (0..2 * MAX_FAILED_UNITS).for_each(|_| report.take(b"\nfailed unit", &mut |_| {}));
        assert_eq!(report.failed.len(), MAX_FAILED_UNITS);
        report.take(b"\nbegin n\nabc\nend n ", &mut |bytes| output += bytes.len());
        (0..100).for_each(|_| report.take(&[b'7'; 1000], &mut |bytes| output += bytes.len()));
        assert_eq!(
            (output, report.code, report.rest.len() < 2 * MAX_LINE_LENGTH),
            (3, Some(255), true)
        );
    }

    #[test]
    fn similar_lines_are_ignored() {
        let (report, output) = parse(b"noise\nreadyx\nstate\n", 3);
        assert!(!report.ready && report.state.is_none() && output.is_empty());
    }
}

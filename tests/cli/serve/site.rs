//! A project with artifacts, the server on it, and a client that sends given bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

use crate::support::processes::within;
use crate::support::stage::{Stage, Who};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

const PROJECT: &str = "output: artifacts
images:
  base: {kind: base, release: bookworm, provisioner: nothing}
  one: {base: base, provisioner: nothing, description: \"<b>one</b> & 'only'\"}
  two: {base: base, overlays: [one], provisioner: nothing, format: [cpio.zst, cpio.gz, tar]}
  missing: {base: base, provisioner: nothing}
  foreign: {base: ./elsewhere.squashfs, provisioner: nothing}
  boot: {kind: initrd, base: base, provisioner: nothing}
  other-base: {kind: base, release: trixie, provisioner: nothing}
  other: {base: other-base, provisioner: nothing}
  other-boot:
    kind: initrd
    base: other-base
    provisioner: nothing
    output: other
    yields: {\"initrd ä.img\": /boot/initrd.img-*, vmlinuz: /boot/vmlinuz-*}
";

/// A project with artifacts that were not built by overcoat.
pub(super) struct Site {
    pub(super) stage: Stage,
    /// Held so that one server runs at a time: hundreds of stalled clients of one server use up the
    /// kernel's TCP memory, and packets of another are then dropped.
    _exclusive: MutexGuard<'static, ()>,
}

static EXCLUSIVE: Mutex<()> = Mutex::new(());

/// A server that runs as the unprivileged user.
pub(super) struct Serving {
    pub(super) child: Child,
    pub(super) address: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct HttpResponse {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Site {
    pub(super) fn new() -> Self {
        // Tests share nothing else, so a panic in another one does not matter.
        let exclusive = EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let site = Self { stage: Stage::new(), _exclusive: exclusive };
        site.stage.write("project/nothing/provisioner.yml", "files: files\n");
        site.stage.write("project/nothing/files/a", "a\n");
        site.project(PROJECT);
        site.stage.write("project/secret", "secret");
        site.stage.write("secret", "secret");
        for (name, size) in [
            ("base.squashfs", 3_000_000),
            ("one.cpio.gz", 100_000),
            ("two.cpio.zst", 5_000),
            ("two.cpio.gz", 6_000),
            ("two.tar", 20_480),
            ("foreign.cpio.gz", 10),
            ("vmlinuz", 70_001),
            ("initrd.img", 900_000),
            ("other-base.squashfs", 0),
            ("other.cpio.gz", 1),
            ("other/vmlinuz", 3),
            ("other/initrd ä.img", 4),
            ("no-artifact", 10),
        ] {
            site.artifact(name, &bytes(name, size));
        }
        site.artifact("one.cpio.gz.manifest.json", b"{}\n");
        site
    }

    pub(super) fn project(&self, text: &str) {
        self.stage.write("project/overcoat.yml", text);
    }

    pub(super) fn path(&self, artifact: &str) -> PathBuf {
        self.stage.path("project/artifacts").join(artifact)
    }

    /// Replaces an artifact as a build does: complete, with a new inode.
    pub(super) fn artifact(&self, name: &str, content: &[u8]) {
        let new = self.stage.write(format!("project/artifacts/{name}.new"), content);
        fs::rename(new, self.path(name)).unwrap();
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(super) fn sha256(&self, name: &str) -> String {
        hex(&self.content(name))
    }

    pub(super) fn command(&self, options: &[&str]) -> std::process::Command {
        let mut command = self.stage.overcoat(Who::Unprivileged);
        command.arg("-v").arg("serve").arg(self.stage.path("project"));
        command.args(["--listen", "127.0.0.1:0"]).args(options);
        command
    }

    pub(super) fn serve(&self, options: &[&str]) -> Serving {
        Serving::start(self.command(options))
    }
}

impl Serving {
    pub(super) fn start(mut command: std::process::Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        let address = line
            .strip_prefix("overcoat: listening on http://")
            .and_then(|rest| rest.split_once('/'))
            .unwrap_or_else(|| panic!("not listening: {line}"))
            .0
            .parse()
            .unwrap();
        let log = Arc::new(Mutex::new(line));
        let shared = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines() {
                let mut log = shared.lock().unwrap();
                log.push_str(&line.unwrap());
                log.push('\n');
            }
        });
        Serving { child, address, log, reader: Some(reader) }
    }

    pub(super) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// Sends these bytes on a new connection and returns the response.
    pub(super) fn raw(&self, request: &[u8]) -> Option<HttpResponse> {
        let mut stream = self.connect();
        // The server may reject a head before it has read all of it.
        let _ = stream.write_all(request);
        answer(&mut stream, request.starts_with(b"HEAD "))
    }

    pub(super) fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpResponse {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: boot.example.org:8080\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("Connection: close\r\n\r\n");
        self.raw(text.as_bytes()).unwrap_or_else(|| panic!("no answer to {text}"))
    }

    pub(super) fn get(&self, path: &str) -> HttpResponse {
        self.ask("GET", path, &[])
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for the server to exit; returns its exit code and its log.
    pub(super) fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        within(LIMIT, "the server exits", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.reader.take().unwrap().join().unwrap();
        (status.unwrap().code(), self.log())
    }

    /// Returns a value in kB from /proc/PID/status.
    pub(super) fn memory(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl HttpResponse {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Reads one response, or returns `None` if the connection ends before its head. A body that is cut
/// off is returned as far as it was received.
pub(super) fn answer(stream: &mut TcpStream, head: bool) -> Option<HttpResponse> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            _ => return None,
        }
    }
    let text = String::from_utf8(bytes).unwrap();
    let mut lines = text.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let none = head || status == 304;
    let length = match headers.get("content-length") {
        Some(length) if !none => length.parse().unwrap(),
        _ => 0,
    };
    let mut body = Vec::new();
    let _ = stream.take(length).read_to_end(&mut body);
    Some(HttpResponse { status, headers, body })
}

/// Returns deterministic bytes that depend on the name.
pub(super) fn bytes(name: &str, size: usize) -> Vec<u8> {
    let mut state = name.bytes().fold(0x9e37_79b9_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

//! `base`: a Debian base image, from mmdebstrap's tar stream to squashfs without a tree on disk.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use fs_model::{FileType, Tree};
use provisioners::image::{Debootstrap, Image, Root, Source};

use super::build::{Common, Job};
use super::{Failure, Outcome, say};
use crate::import::{self, RootImportError};
use crate::lend::{Host, NEUTRAL_HOSTNAME};
use crate::live::Live;
use crate::root::RootError;
use crate::sandbox::{MissingRequirement, Privilege, Signals, find_program};
use crate::seal::path::escape;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The image file, of `kind: base`
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Outcome {
    let image = Image::load(&args.file)?;
    let Source::Base(root) = &image.source else {
        let file = image.file.display();
        return Err(Failure::message(format!(
            "{file} describes no base: build it with `overcoat build {file}`"
        )));
    };
    build(&image, root, &args.common)
}

/// Builds a base.
pub(super) fn build(image: &Image, root: &Root, common: &Common) -> Outcome {
    let job = Job::new(image, common)?;
    let privilege = Privilege::detect()?;
    let composed = job.compose()?;
    match root {
        Root::Debian(debootstrap) => {
            let (proxy, log) = (image.apt_proxy.as_deref(), job.log.as_deref());
            install(debootstrap, proxy, job.epoch, log, composed.tree())?;
            remove_copies(composed.live())?;
        }
        Root::From(path) => {
            say(&format!("taking in {}", path.display()));
            import::import_path(composed.tree(), path, is_left_out, &mut warn)?;
            let removed = import::marks::remove(composed.tree())?;
            report_removed(&removed);
        }
    }
    let signals = Signals::take()?;
    let root = composed.start(privilege)?;
    job.finish(root, signals)
}

/// How many paths a message names.
const NAMED: usize = 8;

/// Reports the paths that were removed from an imported root.
fn report_removed(paths: &[Vec<u8>]) {
    if paths.is_empty() {
        return;
    }
    let named = paths.iter().take(NAMED).map(|path| format!("/{}", escape(path)));
    let mut named: Vec<String> = named.collect();
    if let more @ 1.. = paths.len() - named.len() {
        named.push(format!("and {more} more"));
    }
    say(&format!("left out, as only a running container or system has it: {}", named.join(", ")));
}

/// Installs a new Debian root into `tree`.
fn install(
    debootstrap: &Debootstrap,
    proxy: Option<&str>,
    epoch: Option<u64>,
    log: Option<&Path>,
    tree: &Tree,
) -> Result<(), Failure> {
    say(&format!("installing {} ({}) with mmdebstrap", debootstrap.release, debootstrap.variant));
    let mut mmdebstrap = Mmdebstrap::start(debootstrap, proxy, epoch)?;
    let stream =
        mmdebstrap.child.stdout.take().ok_or_else(|| Failure::message("no output pipe"))?;
    let imported = import::tar(tree, stream, is_left_out, &mut warn);
    match &imported {
        Ok(()) => mmdebstrap.finish(log, "")?,
        // As a rule mmdebstrap's own failure explains a stream that broke off.
        Err(error @ RootImportError::Tar(_)) => {
            mmdebstrap.finish(log, &format!(", or else: {error}"))?
        }
        // It had to end because of this.
        Err(_) => drop(mmdebstrap),
    }
    Ok(imported?)
}

/// Removes the files that mmdebstrap copies from the host, unless a package replaced them.
fn remove_copies(live: &Live) -> Result<(), Failure> {
    let host = Host::current();
    for path in ["/etc/hostname", "/etc/resolv.conf"] {
        let own = live.read(path.as_bytes()).map_err(RootError::from)?;
        let is_link = live.stat(path.as_bytes(), Follow::No).map_err(RootError::from)?;
        let is_file = is_link.is_some_and(|(_, attr)| attr.kind == FileType::Regular);
        if is_file && own.is_some_and(|own| is_copy(&host, path, &own)) {
            live.remove(path.as_bytes()).map_err(RootError::from)?;
        }
    }
    Ok(())
}

/// Whether `content` is what mmdebstrap copied from the host to `path`. Of `resolv.conf` the hook
/// in [`Mmdebstrap::start`] has taken the search domains.
fn is_copy(host: &Host, path: &str, content: &[u8]) -> bool {
    let without_search = |text: &[u8]| -> Vec<u8> {
        let is_search = |line: &&[u8]| {
            let line = line.trim_ascii_start();
            line.starts_with(b"search") || line.starts_with(b"domain")
        };
        text.split_inclusive(|&b| b == b'\n')
            .filter(|line| !is_search(line))
            .flatten()
            .copied()
            .collect()
    };
    host.read(path).is_some_and(|own| own == content || without_search(&own) == content)
}

/// Prints a difference between a base and its source.
fn warn(note: String) {
    say(&format!("warning: {note}"));
}

/// Where mmdebstrap leaves the options that apt was given.
const APT_OPTIONS: &[u8] = b"etc/apt/apt.conf.d/99mmdebstrap";

/// What of a bootstrapped root is no part of a base: device nodes are the business of the target's
/// kernel, and how packages were fetched that of this host.
fn is_left_out(path: &[u8]) -> bool {
    path.starts_with(b"dev/") || path == APT_OPTIONS
}

/// A running mmdebstrap; ended, with all that it started, when this process ends or drops it.
///
/// It is the leader of a process group, in which a watcher waits for the end of what this process
/// holds as the other end of a pipe, and then terminates the group.
struct Mmdebstrap {
    child: Child,
    /// Who reads what it says.
    words: Option<JoinHandle<String>>,
}

/// How many of its last lines are told when it failed.
const TOLD: usize = 10;

/// The watcher, and mmdebstrap in place of the shell.
const WATCHED: &str = r#"
exec 3<&0 </dev/null
{ trap '' TERM; cat; kill -TERM 0; } <&3 >/dev/null 2>&1 3<&- &
exec "$0" "$@" 3<&-
"#;

/// Takes the builder's search domains out of a root before packages are configured in it.
const WITHOUT_SEARCH: &str = r#"f=$1/etc/resolv.conf; [ ! -f "$f" ] || [ -L "$f" ] || \
sed -i -e '/^[[:space:]]*search/d' -e '/^[[:space:]]*domain/d' "$f""#;

impl Mmdebstrap {
    fn start(from: &Debootstrap, proxy: Option<&str>, epoch: Option<u64>) -> Result<Self, Failure> {
        let program = find_program("mmdebstrap")
            .ok_or_else(|| MissingRequirement::program("mmdebstrap", "mmdebstrap"))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHED]).process_group(0);
        if rustix::process::geteuid().is_root() {
            let unshare = find_program("unshare")
                .ok_or_else(|| MissingRequirement::program("unshare", "util-linux"))?;
            command.arg(unshare).arg("--uts").arg("--").arg(program);
        } else {
            // In this mode mmdebstrap makes namespaces of its own.
            command.arg(program).arg("--mode=unshare");
        }
        command.arg("--format=tar").arg(format!("--variant={}", from.variant));
        if !from.packages.is_empty() {
            command.arg(format!("--include={}", from.packages.join(",")));
        }
        if !from.components.is_empty() {
            command.arg(format!("--components={}", from.components.join(",")));
        }
        if let Some(architecture) = &from.architecture {
            command.arg(format!("--architectures={architecture}"));
        }
        // It does not look at the host's own apt configuration: proxies and the like.
        let mut host = Host::current().with_proxy(proxy);
        for warning in host.resolve_proxies(&from.mirrors) {
            say(&format!("warning: {warning}"));
        }
        for option in host.apt_options() {
            command.arg(format!("--aptopt={option}"));
        }
        // Packages write the host name and its domain into their files, so both are the same on
        // every builder. As root, the name is that of a namespace of mmdebstrap's own.
        command.arg(format!("--setup-hook=hostname {NEUTRAL_HOSTNAME}"));
        command.arg(format!("--essential-hook={WITHOUT_SEARCH}"));
        if let Some(keyring) = &from.keyring {
            let mut option = OsString::from("--keyring=");
            option.push(std::path::absolute(keyring)?);
            command.arg(option);
        }
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch.to_string());
        }
        // Its working tree lies in memory, where there is room for it.
        if std::env::var_os("TMPDIR").is_none() && std::path::Path::new("/dev/shm").is_dir() {
            command.env("TMPDIR", "/dev/shm");
        }
        command.arg(&from.release).arg("-").args(&from.mirrors);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|e| Failure::message(format!("cannot run mmdebstrap: {e}")))?;
        let shown = tracing::enabled!(tracing::Level::INFO);
        let words =
            child.stderr.take().map(|stderr| std::thread::spawn(move || hear(stderr, shown)));
        Ok(Mmdebstrap { child, words })
    }

    /// Waits for its end. All that it said goes to the file `log` if it failed; `more` is added to
    /// what is said then.
    fn finish(mut self, log: Option<&Path>, more: &str) -> Result<(), Failure> {
        // `wait` would let go of the pipe that is watched.
        let watched = self.child.stdin.take();
        let status = self.child.wait()?;
        drop(watched);
        let said = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        if status.success() {
            return Ok(());
        }
        let mut text = format!("mmdebstrap failed ({status}){more}");
        // What it tells of itself is no reason.
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("I: ")).collect();
        for line in &lines[lines.len().saturating_sub(TOLD)..] {
            text.push_str("\n  | ");
            text.push_str(line);
        }
        if let Some(log) = log {
            super::build::keep_log(log, said.as_bytes())?;
            text.push_str(&format!("\nthe whole log is in {}", log.display()));
        }
        Err(Failure::message(text))
    }
}

impl Drop for Mmdebstrap {
    fn drop(&mut self) {
        // `wait` lets go of the pipe first, and fails only when it has ended already.
        let _ = self.child.wait();
    }
}

/// Reads what mmdebstrap says, to its end, and shows it as it comes if that is wanted.
fn hear(stderr: ChildStderr, shown: bool) -> String {
    let mut said = String::new();
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        if shown {
            eprint_or_not(&text);
        }
        said.push_str(&text);
        line.clear();
    }
    said
}

/// Text as it is; that standard error is gone is no reason to fail.
fn eprint_or_not(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

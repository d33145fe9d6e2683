//! `base`: a Debian base image, from mmdebstrap's tar stream to squashfs without a tree on disk.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use clap::Args as ClapArgs;
use fs_model::Tree;
use provisioners::image::{Debootstrap, Image, Root, Source};

use super::build::{Common, Job};
use super::{Failure, Outcome, say};
use crate::import::{self, ImportError};
use crate::sandbox::{Host, Privilege, Signals, find_program};

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
            install(debootstrap, image.apt_proxy.as_deref(), job.epoch, composed.tree())?;
        }
        Root::From(path) => {
            say(&format!("taking in {}", path.display()));
            import::from(composed.tree(), path, is_left_out)?;
        }
    }
    let signals = Signals::take()?;
    let root = composed.start(privilege)?;
    job.finish(root, signals)
}

/// Installs a new Debian root into `tree`.
fn install(
    debootstrap: &Debootstrap,
    proxy: Option<&str>,
    epoch: Option<u64>,
    tree: &Tree,
) -> Result<(), Failure> {
    say(&format!("installing {} ({}) with mmdebstrap", debootstrap.release, debootstrap.variant));
    let mut mmdebstrap = Mmdebstrap::start(debootstrap, proxy, epoch)?;
    let stream = mmdebstrap.0.stdout.take().ok_or_else(|| Failure::message("no output pipe"))?;
    let imported = import::tar(tree, stream, is_left_out);
    match &imported {
        Ok(()) => mmdebstrap.finish("")?,
        // As a rule mmdebstrap's own failure explains a stream that broke off.
        Err(error @ ImportError::Read(_)) => mmdebstrap.finish(&format!(", or else: {error}"))?,
        // It had to end because of this.
        Err(_) => drop(mmdebstrap),
    }
    Ok(imported?)
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
struct Mmdebstrap(Child);

/// The watcher, and mmdebstrap in place of the shell.
const WATCHED: &str = r#"
exec 3<&0 </dev/null
{ trap '' TERM; cat; kill -TERM 0; } <&3 >/dev/null 2>&1 3<&- &
exec "$0" "$@" 3<&-
"#;

impl Mmdebstrap {
    fn start(from: &Debootstrap, proxy: Option<&str>, epoch: Option<u64>) -> Result<Self, Failure> {
        let program = find_program("mmdebstrap").ok_or_else(|| {
            Failure::message("mmdebstrap is not installed; as root: `apt install mmdebstrap`")
        })?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHED]).arg(program).process_group(0);
        command.args(["--quiet", "--format=tar"]).arg(format!("--variant={}", from.variant));
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
        for option in Host::current().through(proxy).apt_options() {
            command.arg(format!("--aptopt={option}"));
        }
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
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.spawn();
        child.map(Mmdebstrap).map_err(|e| Failure::message(format!("cannot run mmdebstrap: {e}")))
    }

    /// Waits for its end; `more` is added to what is said if it failed.
    fn finish(mut self, more: &str) -> Result<(), Failure> {
        // `wait` would let go of the pipe that is watched.
        let watched = self.0.stdin.take();
        let status = self.0.wait()?;
        drop(watched);
        if status.success() {
            return Ok(());
        }
        Err(Failure::message(format!("mmdebstrap failed ({status}); it says why above{more}")))
    }
}

impl Drop for Mmdebstrap {
    fn drop(&mut self) {
        // `wait` lets go of the pipe first, and fails only when it has ended already.
        let _ = self.0.wait();
    }
}

//! `mount`: base and overlays as one root in the host's own namespace, served in the background.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args as ClapArgs;
use fs_model::Tree;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::tree::{TreeOptions, XattrSupport};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, getgid, getuid, pipe2, setsid};

use super::control;
use super::images::BaseOffset;
use super::options::size_value;
use super::sealer::Sealer;
use super::{Failure, Outcome, describe, say};
use crate::fuse::{self, Serving, View};
use crate::layers::{self, OpenedLayers};
use crate::root::default_upper_limit;
use crate::sandbox::{ForkSide, HostMount, MountOptions, Signals, fork_process, unmount};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The base, overlays over it, and the directory to mount on
    #[arg(required = true, num_args = 2.., value_name = "BASE [OVERLAY] DIR")]
    pub(super) paths: Vec<PathBuf>,

    #[command(flatten)]
    pub(super) offset: BaseOffset,

    /// Let the root be written to, in memory; `overcoat seal DIR` saves what changed
    #[arg(long)]
    pub(super) rw: bool,

    /// The most that changes may take in memory, such as 2G; half of the machine's by default
    #[arg(long, value_name = "SIZE", value_parser = size_value)]
    pub(super) upper_size: Option<u64>,

    /// Stay in the foreground
    #[arg(short, long)]
    pub(super) foreground: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    mount(args, &MountOptions { read_only: !args.rw, ..MountOptions::default() })
}

/// Mounts, in the way that `how` says.
pub(super) fn mount(args: &Args, how: &MountOptions) -> Outcome {
    let Some((dir, paths)) = args.paths.split_last() else {
        return Err(Failure::message("nothing to mount"));
    };
    if args.upper_size.is_some() && !args.rw {
        return Err(Failure::message(
            "--upper-size limits what changes, and nothing can change in this root: it is mounted \
             read-only without --rw",
        ));
    }
    let mut paths = paths.to_vec();
    args.offset.apply(&mut paths);
    let layers = layers::open(&paths, CacheOptions::default())
        .map_err(|error| Failure::Error(2, Box::new(error)))?;
    let upper_limit = args.rw.then(|| args.upper_size.unwrap_or_else(default_upper_limit));
    let options = TreeOptions { upper_limit, xattrs: XattrSupport::All };
    let tree = Arc::new(Tree::new(layers.layers.clone(), options)?);
    let dir = std::path::absolute(dir)?;
    if let Some(layer) = paths.iter().find(|layer| lies_below(&dir, layer)) {
        return Err(Failure::message(format!(
            "{}: lies in the layer {}, which would have the root within itself",
            dir.display(),
            layer.display()
        )));
    }
    let mount = HostMount::new(&dir, how)?;
    // From here on the mount is there, so every way out takes it away.
    let server = Server { tree, layers, dir: dir.clone() };
    let result =
        if args.foreground { server.serve(mount, None) } else { in_background(server, mount) };
    if result.is_err() {
        let _ = unmount(&dir, true);
    }
    result
}

/// Whether `dir` lies below the directory `layer`: reading the layer would then ask the mount, whose
/// server waits for what it reads. On the layer itself nothing is in the way: it is open already.
fn lies_below(dir: &Path, layer: &Path) -> bool {
    match (dir.canonicalize(), layer.canonicalize()) {
        (Ok(dir), Ok(layer)) => layer.is_dir() && dir != layer && dir.starts_with(&layer),
        _ => false,
    }
}

/// Serves in a process of its own, and returns when the mount answers.
fn in_background(server: Server, mount: HostMount) -> Outcome {
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(std::io::Error::from)?;
    match fork_process()? {
        ForkSide::Child => {
            drop(ours);
            let ready = File::from(theirs);
            let code = match server.serve(mount, Some(ready)) {
                Ok(code) => code,
                Err(Failure::Error(code, error)) => {
                    say(&format!("error: {}", describe(&*error)));
                    ExitCode::from(code)
                }
                Err(Failure::Signal(_) | Failure::Enough) => ExitCode::SUCCESS,
            };
            Ok(code)
        }
        ForkSide::Parent => {
            drop((theirs, mount));
            let mut answer = [0];
            match File::from(ours).read(&mut answer) {
                Ok(1) => Ok(ExitCode::SUCCESS),
                // The server has said why.
                _ => Err(Failure::message("the mount's server did not start")),
            }
        }
    }
}

/// What a mount is served from.
struct Server {
    tree: Arc<Tree>,
    layers: OpenedLayers,
    dir: PathBuf,
}

impl Server {
    /// Serves until the mount is gone. `ready` is told when it answers.
    fn serve(self, mount: HostMount, ready: Option<File>) -> Outcome {
        let signals = Signals::take()?;
        // Whoever mounts without being root is the only one who sees it: all is theirs.
        let owner = (!Uid::effective().is_root()).then(|| (getuid().as_raw(), getgid().as_raw()));
        let view = View { max_id: u32::MAX, owner, unprivileged: owner.is_some() };
        let serving = fuse::serve(self.tree.clone(), mount.into_fuse_fd(), view)?;
        // This asks the mount, from a thread that does not serve it.
        let device = std::fs::metadata(&self.dir)?.dev();
        let listener = control::listen(device)?;
        let Server { tree, layers, dir } = self;
        let sealer = Arc::new(Sealer::new(tree, layers)?);
        let ending = Ending { dir, device, sealer: sealer.clone() };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || ending.on_signal(&signals))?;
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || sealer.listen(&listener))?;
        if let Some(mut ready) = ready {
            go_to_background()?;
            ready.write_all(&[1])?;
        }
        finish(serving)
    }
}

fn finish(serving: Serving) -> Outcome {
    let faults = serving.faults().clone();
    serving.wait()?;
    match faults.layer() {
        Some(error) => Err(Failure::Error(2, Box::new(error))),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// A session of its own, and no hold on the terminal or on the working directory.
fn go_to_background() -> Result<(), Failure> {
    setsid().map_err(std::io::Error::from)?;
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).map_err(std::io::Error::from)?;
    rustix::stdio::dup2_stdout(&null).map_err(std::io::Error::from)?;
    rustix::stdio::dup2_stderr(&null).map_err(std::io::Error::from)?;
    Ok(())
}

/// What to do when this process is asked to end.
struct Ending {
    dir: PathBuf,
    device: u64,
    sealer: Arc<Sealer>,
}

impl Ending {
    /// Takes the mount away: serving ends with it, when its last user goes. Asked once more, ends
    /// it at once.
    fn on_signal(&self, signals: &Signals) {
        let _ = next(signals);
        // Who writes waits for a seal to end, and a seal may wait for a reader who never reads.
        self.sealer.give_up();
        let _ = unmount(&self.dir, true);
        let signal = next(signals);
        // Whoever waits for this mount, a thread of this process too, gets an error now.
        let connection = rustix::fs::minor(self.device);
        let _ = std::fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1");
        std::process::exit(128 + signal as i32);
    }
}

/// Waits for a signal that asks to end.
fn next(signals: &Signals) -> Signal {
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        if let Some(signal) = signals.interruption() {
            return signal;
        }
    }
}

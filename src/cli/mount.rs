//! `mount`: base and overlays as one root in the host's own namespace, served in the background.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args as ClapArgs;
use fs_model::delta::Contents;
use fs_model::layer::Xattr;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::tree::{TreeOptions, XattrSupport};
use fs_model::{FsError, Ino, Tree};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, getgid, getuid, pipe2, setsid};

use super::control::{self, Answer, Request, Sealed};
use super::options::{self, report_json, size_value};
use super::{Failure, Outcome, describe, say};
use crate::below::beneath;
use crate::fuse::{self, Serving, View};
use crate::layers::{self, Layers};
use crate::root::default_upper_limit;
use crate::sandbox::{Half, HostMount, Signals, split, unmount};
use crate::seal::{Format, ManifestInfo, Output, SealOptions, seal};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The base, overlays over it, and the directory to mount on
    #[arg(required = true, num_args = 2.., value_name = "BASE [OVERLAY] DIR")]
    paths: Vec<PathBuf>,

    /// Let the root be written to, in memory; `overcoat seal DIR` saves what changed
    #[arg(long)]
    rw: bool,

    /// The most that changes may take in memory, such as 2G; half of the machine's by default
    #[arg(long, value_name = "SIZE", value_parser = size_value)]
    upper_size: Option<u64>,

    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let Some((dir, paths)) = args.paths.split_last() else {
        return Err(Failure::message("nothing to mount"));
    };
    let layers = layers::open(paths, CacheOptions::default())
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
    let mount = HostMount::new(&dir, !args.rw)?;
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
    match split()? {
        Half::New => {
            drop(ours);
            let ready = File::from(theirs);
            let code = match server.serve(mount, Some(ready)) {
                Ok(code) => code,
                Err(Failure::Error(code, error)) => {
                    say(&format!("error: {}", describe(&*error)));
                    ExitCode::from(code)
                }
                Err(Failure::Signal(_)) => ExitCode::SUCCESS,
            };
            Ok(code)
        }
        Half::Old => {
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
    layers: Layers,
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
        let signalled = dir.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || end_on_signal(&signals, &signalled))?;
        let sealer = Sealer { tree, layers };
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

/// Takes the mount away when this process is asked to end: serving ends with it.
fn end_on_signal(signals: &Signals, dir: &Path) {
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        if signals.interruption().is_some() {
            let _ = unmount(dir, true);
            return;
        }
    }
}

/// Seals the tree of a mount, when asked to.
struct Sealer {
    tree: Arc<Tree>,
    layers: Layers,
}

impl Sealer {
    fn listen(&self, listener: &UnixListener) {
        // Clients that only wait for the end of this process: their connection ends with it.
        let mut waiting = Vec::new();
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            match self.talk(&stream) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => waiting.push(stream),
                Err(error) => tracing::warn!(%error, "a conversation with a client broke off"),
            }
        }
    }

    fn talk(&self, stream: &UnixStream) -> std::io::Result<()> {
        control::check_peer(stream)?;
        let (request, fd) = control::receive::<Request>(stream)?;
        let answer = match self.seal(&request, fd.map(File::from), stream) {
            Ok(sealed) => Answer::Sealed(sealed),
            Err(Failure::Error(_, error)) => Answer::Failed(describe(&*error)),
            Err(Failure::Signal(signal)) => Answer::Failed(format!("signal {signal}")),
        };
        control::send(stream, &answer, None)
    }

    fn seal(
        &self,
        request: &Request,
        fd: Option<File>,
        client: &UnixStream,
    ) -> Result<Sealed, Failure> {
        let format = Format::ALL
            .into_iter()
            .find(|format| format.name() == request.format)
            .ok_or_else(|| Failure::message("a format that this server does not know"))?;
        let defaults = SealOptions::new(format);
        let settings = SealOptions {
            level: request.level,
            threads: request.threads.map_or(defaults.threads, usize::from),
            source_date_epoch: request.source_date_epoch,
            ..defaults
        };
        let (archive, manifest) = match (&request.output, fd) {
            (Some(path), _) => {
                let archive = Output::file(path)?;
                let manifest = request
                    .manifest
                    .then(|| Output::file(&options::manifest_path(path)))
                    .transpose()?;
                (archive, manifest)
            }
            (None, Some(fd)) => (Output::descriptor(fd, "standard output"), None),
            (None, None) => return Err(Failure::message("the request names no output")),
        };
        let layers = match &manifest {
            Some(_) => self.layers.digest()?.finish(),
            None => Vec::new(),
        };
        // What changes meanwhile waits.
        let _frozen = self.tree.freeze();
        let delta = self.tree.delta()?.with_root(self.tree.attr(Ino::ROOT)?);
        let manifest = match manifest {
            Some(output) => {
                let beneath = beneath(&delta, self.tree.layers())?;
                Some((output, ManifestInfo { layers, beneath }))
            }
            None => None,
        };
        let contents = WhileAsked { tree: &self.tree, client };
        let summary = seal(&delta, &contents, &settings, archive, manifest, &mut |_| {})?;
        let output = request.output.clone().unwrap_or_else(|| "-".into());
        Ok(Sealed {
            report: report_json(&output, &summary),
            warnings: summary.warnings.iter().map(ToString::to_string).collect(),
        })
    }
}

/// A tree's contents, as long as somebody waits for what is made of them.
struct WhileAsked<'a> {
    tree: &'a Tree,
    client: &'a UnixStream,
}

impl WhileAsked<'_> {
    fn check(&self) -> Result<(), FsError> {
        // It has said all that it had to say: what can be read is its end.
        let mut fds = [PollFd::new(self.client.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(1..) => Err(FsError::Interrupted),
            _ => Ok(()),
        }
    }
}

impl Contents for WhileAsked<'_> {
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        self.check()?;
        Contents::read(self.tree, ino, offset, buf)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<Range<u64>>, FsError> {
        self.check()?;
        Contents::next_data(self.tree, ino, offset)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        Contents::read_link(self.tree, ino)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        Contents::xattrs(self.tree, ino)
    }
}

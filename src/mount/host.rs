//! Serves a mount in the host's namespace until it is unmounted.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use fs_model::{LayerError, Tree};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Uid, getgid, getuid, setsid};

use super::control;
use super::server::Sealer;
use crate::fuse::{self, Serving, View};
use crate::image::open::OpenedLayers;
use crate::sandbox::{HostMount, SandboxError, Signals, unmount};

/// An error of the server of a mount.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountServerError {
    /// Signals cannot be received.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A layer could not be read while it was served.
    #[error(transparent)]
    Layer(LayerError),
}

/// The server of a mount.
pub(crate) struct MountServer {
    pub(crate) tree: Arc<Tree>,
    pub(crate) layers: OpenedLayers,
    /// The mount point.
    pub(crate) dir: PathBuf,
}

impl MountServer {
    /// Serves until the root is unmounted. Once the mount responds, writes a byte to `ready` and
    /// moves to the background.
    pub(crate) fn serve(
        self,
        mount: HostMount,
        ready: Option<File>,
    ) -> Result<(), MountServerError> {
        let signals = Signals::take()?;
        // Without root privileges, only this user has access to the mount and is shown as the
        // owner.
        let owner = (!Uid::effective().is_root()).then(|| (getuid().as_raw(), getgid().as_raw()));
        let view = View { max_id: u32::MAX, owner, unprivileged: owner.is_some() };
        let serving = fuse::serve(self.tree.clone(), mount.into_fuse_fd(), view)?;
        // Sends a request to the mount. Other threads serve it, so this does not block for ever.
        let device = std::fs::metadata(&self.dir)?.dev();
        let listener = control::listen(device)?;
        let MountServer { tree, layers, dir } = self;
        let sealer = Arc::new(Sealer::new(tree, layers, serving.faults().clone())?);
        let handler = ShutdownHandler { dir, device, sealer: sealer.clone() };
        std::thread::Builder::new().name("signals".into()).spawn(move || handler.run(&signals))?;
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || sealer.listen(&listener))?;
        if let Some(mut ready) = ready {
            detach()?;
            ready.write_all(&[1])?;
        }
        finish(serving)
    }
}

fn finish(serving: Serving) -> Result<(), MountServerError> {
    let faults = serving.faults().clone();
    serving.wait()?;
    match faults.layer() {
        Some(error) => Err(MountServerError::Layer(error)),
        None => Ok(()),
    }
}

/// Detaches from the session, the terminal and the working directory.
fn detach() -> Result<(), MountServerError> {
    setsid().map_err(std::io::Error::from)?;
    std::env::set_current_dir("/")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).map_err(std::io::Error::from)?;
    rustix::stdio::dup2_stdout(&null).map_err(std::io::Error::from)?;
    rustix::stdio::dup2_stderr(&null).map_err(std::io::Error::from)?;
    Ok(())
}

/// Unmounts when a signal requests termination.
struct ShutdownHandler {
    dir: PathBuf,
    device: u64,
    sealer: Arc<Sealer>,
}

impl ShutdownHandler {
    /// Unmounts lazily on the first signal, so serving ends with the last user of the mount. On the
    /// second signal, aborts the connection and exits.
    fn run(&self, signals: &Signals) {
        let _ = wait_for_signal(signals);
        // Writers wait for a running seal, which may wait for a reader that has stopped reading.
        self.sealer.abort();
        let _ = unmount(&self.dir, true);
        let signal = wait_for_signal(signals);
        // All processes and threads that wait for the mount get an error.
        let connection = rustix::fs::minor(self.device);
        let _ = std::fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1");
        std::process::exit(128 + signal as i32);
    }
}

/// Waits for a signal that requests termination.
fn wait_for_signal(signals: &Signals) -> Signal {
    loop {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::NONE);
        if let Some(signal) = signals.interruption() {
            return signal;
        }
    }
}

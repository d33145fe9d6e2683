//! The FUSE side of a root: a session that answers the kernel's requests from a
//! [`Tree`].
//!
//! - `adapter`: requests to calls, errors to errno, nothing else.
//! - `view`: how attributes look through one mount.
//! - `allocator`: memory that goes back to the system.
//! - `faults`: what went wrong, for whoever asks afterwards.
//! - `idle`: how the thread that reads the device waits for the next request.
//! - `owners`: aliases for the owners that the mount's user namespace does not map.
//! - `setcap`: which capabilities that the output cannot hold are refused.
//! - `workers`: threads for the reads that have to decode first.
//!
//! Invariants:
//! - Every request is answered, and none panics.
//! - Nobody but the kernel and [`Live`](crate::live::Live) changes the tree, so the kernel may keep
//!   what it was told for as long as it likes.

mod adapter;
mod allocator;
mod errno;
mod faults;
mod idle;
mod owners;
mod setcap;
mod view;
mod workers;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use fs_model::Tree;
use fuser::{Config, Notifier, Session, SessionACL};

pub use allocator::settle_allocator;
pub use errno::errno_of;
pub use faults::Faults;
pub use owners::{ForeignOwners, OVERFLOW_ID, Owners};
pub use view::View;

use adapter::Adapter;
use idle::Watch;
use view::OwnedView;
use workers::Workers;

/// A name in the root directory that does not exist. Looking it up runs the action of
/// [`Serving::on_bell`], and is answered when that has ended.
pub const BELL: &str = ".overcoat-bell";

/// The action that a look-up of [`BELL`] runs.
type BellAction = Box<dyn Fn() + Send + Sync>;

/// A mount that is being served by threads of this process.
pub struct Serving {
    thread: JoinHandle<io::Result<()>>,
    notifier: Notifier,
    faults: Arc<Faults>,
    bell: Arc<OnceLock<BellAction>>,
    owners: Arc<Owners>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// Begins to serve `tree` on a FUSE device that is mounted already, and returns once the kernel
/// has agreed.
///
/// # Errors
/// When the kernel and this program do not come to terms, or a thread cannot be started.
pub fn serve(tree: Arc<Tree>, device: OwnedFd, view: View) -> io::Result<Serving> {
    let watch = Watch::new(&device)?;
    let faults = Arc::new(Faults::default());
    let bell = Arc::new(OnceLock::new());
    let view = OwnedView::new(view);
    let owners = view.owners.clone();
    let adapter = Adapter::new(tree, view, Workers::start()?, watch, faults.clone(), bell.clone());
    // One thread reads the device: it answers most requests in a few microseconds, which is less
    // than waking a second one would take. What takes long goes to the workers.
    let session = Session::from_fd(adapter, device, SessionACL::All, Config::default())?;
    let notifier = session.notifier();
    let thread =
        std::thread::Builder::new().name("fuse-session".into()).spawn(move || session.run())?;
    Ok(Serving { thread, notifier, faults, bell, owners })
}

impl Serving {
    /// Tells the kernel what it must forget.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Runs `action` whenever a process looks up [`BELL`], in a thread of its own: the action may
    /// have the kernel forget what it knows, which can wait for other requests.
    pub fn on_bell(&self, action: impl Fn() + Send + Sync + 'static) {
        // There is one root for one mount, and it sets this once.
        let _ = self.bell.set(Box::new(action));
    }

    /// Which owners are shown as other ids.
    pub fn owners(&self) -> &Arc<Owners> {
        &self.owners
    }

    /// What went wrong while serving.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// Waits until the mount is gone.
    pub fn wait(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a FUSE thread panicked")))
    }
}

//! The FUSE session of a root: answers the kernel's requests from a [`Tree`].
//!
//! - `adapter`: translates requests to calls and errors to errno.
//! - `view`: attributes as one mount shows them.
//! - `allocator`: returns freed memory to the system.
//! - `callers`: the ids of the processes that make requests.
//! - `faults`: errors of a served mount, to report later.
//! - `numbers`: the kernel's caches of files with several inode numbers.
//! - `openers`: how programs open files that are lent in place of missing ones.
//! - `poller`: how the thread that reads the device waits for the next request.
//! - `owners`: aliases for owners that the mount's user namespace does not map.
//! - `setcap`: when to refuse a capability that the output cannot hold.
//! - `workers`: threads for reads that have to decode.
//!
//! Invariants:
//! - Every request is answered, and no request panics.
//! - Only the kernel and [`MountedTree`](crate::root::mounted_tree::MountedTree) change the tree,
//!   so the kernel may cache replies for any time.

mod adapter;
mod allocator;
mod callers;
mod copies;
mod errno;
mod faults;
mod numbers;
mod openers;
mod owners;
mod poller;
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
pub(crate) use copies::CopiedFiles;
pub(crate) use errno::errno_of;
pub use faults::{Faults, LostData};
pub use owners::{ForeignOwners, OwnerAliases};
pub(crate) use owners::{OVERFLOW_ID, owner_of_copied_device};
pub(crate) use setcap::CAPABILITY;
pub use view::View;

use crate::sandbox::CredentialTable;
use adapter::Adapter;
use callers::Callers;
use numbers::OtherNumbers;
use poller::DevicePoller;
use view::OwnedView;
use workers::WorkerPool;

/// The action that a lookup of [`CALLBACK_NAME`](provisioners::machine::CALLBACK_NAME) in the root
/// directory runs. The lookup is answered when the action has ended.
type LookupCallback = Box<dyn Fn() + Send + Sync>;

/// A mount that threads of this process serve.
pub struct Serving {
    thread: JoinHandle<io::Result<()>>,
    notifier: Notifier,
    faults: Arc<Faults>,
    callback: Arc<OnceLock<LookupCallback>>,
    owners: Arc<OwnerAliases>,
    copies: Arc<CopiedFiles>,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("faults", &self.faults).finish_non_exhaustive()
    }
}

/// Starts to serve `tree` on a mounted FUSE device, and returns when the kernel has accepted the
/// session.
///
/// # Errors
/// Fails if the protocol cannot be negotiated with the kernel, or a thread cannot be started.
pub fn serve(tree: Arc<Tree>, device: OwnedFd, view: View) -> io::Result<Serving> {
    serve_for(tree, device, view, None)
}

/// As [`serve`], for processes whose credentials only the daemon knows.
///
/// # Errors
/// As [`serve`].
pub(crate) fn serve_for(
    tree: Arc<Tree>,
    device: OwnedFd,
    view: View,
    credentials: Option<Arc<CredentialTable>>,
) -> io::Result<Serving> {
    let poller = DevicePoller::new(&device)?;
    let faults = Arc::new(Faults::default());
    let callback = Arc::new(OnceLock::new());
    let view = OwnedView::new(view);
    let (owners, copies) = (view.owners.clone(), Arc::new(CopiedFiles::new()));
    let callers = Callers::new(view.clone(), credentials, copies.clone());
    let workers = WorkerPool::start()?;
    let numbers = OtherNumbers::new(tree.clone());
    let others = numbers.notifier();
    let (shared_faults, shared_callback) = (faults.clone(), callback.clone());
    let adapter =
        Adapter::new(tree, view, callers, workers, poller, shared_faults, shared_callback, numbers);
    // One thread reads the device: it answers most requests in a few microseconds, which is less
    // than waking a second thread takes. Slow requests go to the workers.
    let session = Session::from_fd(adapter, device, SessionACL::All, Config::default())?;
    let notifier = session.notifier();
    // The session has one notifier.
    let _ = others.set(notifier.clone());
    let thread =
        std::thread::Builder::new().name("fuse-session".into()).spawn(move || session.run())?;
    Ok(Serving { thread, notifier, faults, callback, owners, copies })
}

impl Serving {
    /// Returns the notifier, which invalidates the kernel's caches.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Runs `action` in its own thread whenever a process looks up `CALLBACK_NAME`: the action may
    /// invalidate the kernel's caches, which can wait for other requests.
    pub fn on_callback_lookup(&self, action: impl Fn() + Send + Sync + 'static) {
        // A mount has one root, which sets this once.
        let _ = self.callback.set(Box::new(action));
    }

    /// Returns the owners that are shown as aliases.
    pub fn owners(&self) -> &Arc<OwnerAliases> {
        &self.owners
    }

    /// Returns the copies of files of the host.
    pub(crate) fn copies(&self) -> &Arc<CopiedFiles> {
        &self.copies
    }

    /// Returns the errors of serving.
    pub fn faults(&self) -> &Arc<Faults> {
        &self.faults
    }

    /// Waits until the mount has ended.
    pub fn wait(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("a FUSE thread panicked")))
    }
}

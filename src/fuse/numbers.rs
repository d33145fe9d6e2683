//! The kernel's caches of files that it knows by several inode numbers.
//!
//! A lent file takes the place of the image's own file when a program changes it. Programs that
//! have the own file open, or mounted elsewhere, then change and read the same file by another
//! number. So each change by one number invalidates what the kernel caches for the others.

use std::sync::{Arc, OnceLock};

use fs_model::{Ino, Tree};
use fuser::{INodeNo, Notifier};

pub(super) struct OtherNumbers {
    tree: Arc<Tree>,
    notifier: Arc<OnceLock<Notifier>>,
}

impl OtherNumbers {
    pub(super) fn new(tree: Arc<Tree>) -> Self {
        OtherNumbers { tree, notifier: Arc::default() }
    }

    /// Returns the place of the notifier, to be set when the session exists.
    pub(super) fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        self.notifier.clone()
    }

    /// Invalidates the kernel's caches for the other numbers of `ino`, then calls `reply`. This may
    /// wait for other requests, so it is done in its own thread if there are other numbers.
    pub(super) fn invalidate(&self, ino: Ino, reply: impl FnOnce() + Send + 'static) {
        let others = self.tree.other_numbers(ino);
        let notifier = self.notifier.get().filter(|_| !others.is_empty()).cloned();
        let Some(notifier) = notifier else { return reply() };
        std::thread::spawn(move || {
            for other in others {
                if let Err(error) = notifier.inval_inode(INodeNo(other.0), 0, 0) {
                    tracing::debug!(%error, "cannot invalidate an inode");
                }
            }
            reply();
        });
    }
}

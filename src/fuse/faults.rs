//! Errors that occurred while a mount was served, to report later.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_model::delta::Delta;
use fs_model::{FsError, Ino, LayerError};
use parking_lot::Mutex;

use crate::text::escape::escape;
use crate::text::list;

/// Maximum files that a message about lost data names.
const MAX_NAMED_FILES: usize = 3;

/// The errors behind a mount, where programs saw only an errno.
#[derive(Debug, Default)]
pub struct Faults {
    layer: Mutex<Option<LayerError>>,
    full: AtomicBool,
    /// The files for which the kernel's page cache could not be written.
    lost: Mutex<BTreeSet<Ino>>,
}

impl Faults {
    /// Returns the first layer error that was answered with `EIO`.
    pub fn layer(&self) -> Option<LayerError> {
        self.layer.lock().clone()
    }

    /// Returns whether a request failed because the upper was full.
    pub fn full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Returns the files of `delta` that lack data because the upper was full when the kernel wrote
    /// its page cache; `None` if there are none. Files that were deleted or emptied since are not
    /// included.
    pub(crate) fn lost_data(&self, delta: &Delta) -> Option<LostData> {
        let lost = self.lost.lock();
        let is_lost = |ino: Ino| lost.contains(&ino);
        let entries = delta.entries.iter();
        let files: Vec<_> = entries
            .filter(|entry| entry.object.is_some_and(|object| is_lost(object.ino)))
            .map(|entry| entry.path.to_vec())
            .collect();
        (!files.is_empty()).then_some(LostData { files })
    }

    /// Returns whether the kernel's page cache of any file could not be written.
    pub(crate) fn has_lost_data(&self) -> bool {
        !self.lost.lock().is_empty()
    }

    /// Records that a write of the kernel's page cache failed. The kernel drops the pages, and a
    /// program receives the error only if it calls `msync` or `fsync`.
    pub(super) fn note_lost(&self, ino: Ino, error: &FsError) {
        if matches!(error, FsError::NoSpace { .. }) {
            self.lost.lock().insert(ino);
        }
    }

    /// Records that a file was emptied, so that it lacks nothing.
    pub(super) fn note_emptied(&self, ino: Ino) {
        self.lost.lock().remove(&ino);
    }

    /// Records an error that a request was answered with.
    pub(super) fn note(&self, error: &FsError) {
        match error {
            FsError::Layer(error) => {
                tracing::error!(%error, "answered with an input/output error");
                self.layer.lock().get_or_insert_with(|| error.clone());
            }
            FsError::NoSpace { limit } if !self.full.swap(true, Ordering::Relaxed) => {
                tracing::info!(limit, "the upper layer is full");
            }
            _ => {}
        }
    }
}

/// Files that lack data which a program wrote to a memory mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostData {
    /// The paths from the root, without a leading slash, in order.
    files: Vec<Vec<u8>>,
}

impl fmt::Display for LostData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.iter().map(|path| format!("/{}", escape(path)));
        write!(
            f,
            "the upper layer was full, and data that a program wrote to a memory mapping is lost, in {}",
            list::joined(files, MAX_NAMED_FILES)
        )
    }
}

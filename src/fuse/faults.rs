//! Errors that occurred while a mount was served, to report later.

use std::sync::atomic::{AtomicBool, Ordering};

use fs_model::{FsError, LayerError};
use parking_lot::Mutex;

/// The errors behind a mount, where programs saw only an errno.
#[derive(Debug, Default)]
pub struct Faults {
    layer: Mutex<Option<LayerError>>,
    full: AtomicBool,
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

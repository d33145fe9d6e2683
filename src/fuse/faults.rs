//! What went wrong while a mount was served, for whoever asks afterwards.

use std::sync::atomic::{AtomicBool, Ordering};

use fs_model::{FsError, LayerError};
use parking_lot::Mutex;

/// What went wrong behind the mount, where a program in it saw a mere errno.
#[derive(Debug, Default)]
pub struct Faults {
    layer: Mutex<Option<LayerError>>,
    full: AtomicBool,
}

impl Faults {
    /// The first layer error that was answered with `EIO`.
    pub fn layer(&self) -> Option<LayerError> {
        self.layer.lock().clone()
    }

    /// Whether anything was refused because the upper was full.
    pub fn full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Takes note of an error that a request was answered with.
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

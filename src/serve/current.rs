//! What is served now: a catalogue, read anew when the project's file has changed.
//!
//! Invariants:
//! - A request is answered from one catalogue, whatever happens meanwhile.
//! - A file that makes no project leaves what was served before, and is told once.
//! - Who asks for a file that is known does not wait for any of this.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use super::catalogue::Catalogue;
use crate::project::Stamp;

/// Makes the catalogue anew, or says why there is none.
pub type Read = Arc<dyn Fn() -> Result<Catalogue, String> + Send + Sync>;

/// Where a catalogue is read from.
pub(super) struct Source {
    file: PathBuf,
    read: Read,
    /// The file as it was when it was read last; held by the one who reads.
    stamp: tokio::sync::Mutex<Option<Stamp>>,
}

/// What is served now. See the [module](self) for its invariants.
pub(super) struct Current {
    catalogue: RwLock<Arc<Catalogue>>,
    source: Option<Source>,
}

impl Source {
    /// The project's file, which was read just now, and how to read it again.
    pub(super) fn new(file: PathBuf, read: Read) -> Self {
        let stamp = tokio::sync::Mutex::new(Stamp::of(&file).ok());
        Source { file, read, stamp }
    }
}

impl Current {
    pub(super) fn new(catalogue: Catalogue, source: Option<Source>) -> Self {
        Current { catalogue: RwLock::new(Arc::new(catalogue)), source }
    }

    /// The catalogue as it was read last.
    pub(super) fn known(&self) -> Arc<Catalogue> {
        self.catalogue.read().clone()
    }

    /// The catalogue as the project's file is now.
    pub(super) async fn read(&self) -> Arc<Catalogue> {
        let Some(source) = &self.source else { return self.known() };
        let mut stamp = source.stamp.lock().await;
        let Ok(now) = Stamp::of(&source.file) else { return self.known() };
        if *stamp != Some(now) {
            let read = source.read.clone();
            let read = tokio::task::spawn_blocking(move || read()).await;
            // Not before: who asked may be gone by now, and then the next one reads it.
            *stamp = Some(now);
            match read {
                Ok(Ok(catalogue)) => {
                    tracing::info!("{} has changed and was read again", source.file.display());
                    *self.catalogue.write() = Arc::new(catalogue);
                }
                Ok(Err(why)) => {
                    tracing::warn!("serving the project as it was before its file changed: {why}");
                }
                Err(error) => tracing::warn!("reading the project again: {error}"),
            }
        }
        self.known()
    }
}

//! The current catalogue, which is read again when the project file has changed.
//!
//! Invariants:
//! - A request uses one catalogue, even when a new one is read meanwhile.
//! - An invalid project file leaves the previous catalogue in use, and is logged once per change.
//! - A request for a known file does not wait for a catalogue to be read.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

use super::catalogue::Catalogue;
use crate::build::FileStamp;

/// Reads the catalogue again, or returns the reason why it cannot.
pub(crate) type ReadCatalogue = Arc<dyn Fn() -> Result<Catalogue, String> + Send + Sync>;

/// The project file and the function that reads a catalogue from it.
pub(super) struct CatalogueSource {
    file: PathBuf,
    read: ReadCatalogue,
    /// The file's stamp when it was last read. Locked while a catalogue is read.
    stamp: tokio::sync::Mutex<Option<FileStamp>>,
}

/// The current catalogue. See the [module](self) for its invariants.
pub(super) struct CurrentCatalogue {
    catalogue: RwLock<Arc<Catalogue>>,
    source: Option<CatalogueSource>,
}

impl CatalogueSource {
    /// Takes the project file, which was just read, and the function that reads it again.
    pub(super) fn new(file: PathBuf, read: ReadCatalogue) -> Self {
        let stamp = tokio::sync::Mutex::new(FileStamp::read(&file).ok());
        CatalogueSource { file, read, stamp }
    }
}

impl CurrentCatalogue {
    pub(super) fn new(catalogue: Catalogue, source: Option<CatalogueSource>) -> Self {
        CurrentCatalogue { catalogue: RwLock::new(Arc::new(catalogue)), source }
    }

    /// Returns the catalogue that was read last.
    pub(super) fn known(&self) -> Arc<Catalogue> {
        self.catalogue.read().clone()
    }

    /// Returns the catalogue for the present content of the project file.
    pub(super) async fn read(&self) -> Arc<Catalogue> {
        let Some(source) = &self.source else { return self.known() };
        let mut stamp = source.stamp.lock().await;
        let Ok(now) = FileStamp::read(&source.file) else { return self.known() };
        if *stamp != Some(now) {
            let read = source.read.clone();
            let read = tokio::task::spawn_blocking(move || read()).await;
            // Set after reading: if this request is cancelled, the next one reads the file.
            *stamp = Some(now);
            match read {
                Ok(Ok(catalogue)) => {
                    tracing::info!("{} changed and was read again", source.file.display());
                    *self.catalogue.write() = Arc::new(catalogue);
                }
                Ok(Err(why)) => {
                    tracing::warn!("the project file is invalid; serving the previous one: {why}");
                }
                Err(error) => tracing::warn!("cannot read the project again: {error}"),
            }
        }
        self.known()
    }
}

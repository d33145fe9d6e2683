//! Opens layers. A path's type is determined by its content.

mod embedded;
mod file;
mod sif;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fs_model::acl::AccountIds;
use fs_model::layer::cpio::CpioLayer;
use fs_model::layer::directory::DirectoryLayer;
use fs_model::layer::squashfs::{CacheOptions, SquashfsLayer};
use fs_model::layer::tar::{TarLayer, is_tar};
use fs_model::layer::{Layer, Limits};
use fs_model::{FsError, LayerError};

use crate::image::view::accounts::Accounts;
use crate::manifest::{BaseLayer, lower};
use crate::text::digest::sha256_hex;

pub use embedded::Embedded;
pub(crate) use file::ImageFile;
pub use sif::SifError;

/// An error while opening a layer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or mapped.
    #[error("cannot open {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// This user may not read the block device.
    #[error("cannot open the block device {}", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file has none of the supported formats.
    #[error(
        "{}: not a squashfs image, a newc cpio archive (plain, gzip or zstd), a tar archive (plain, \
         gzip, xz or zstd) or a directory",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// The file has none of the supported formats, but contains squashfs images.
    #[error("{}: {embedded}", path.display())]
    Embedded {
        /// The file.
        path: PathBuf,
        /// The images, and how to name them.
        embedded: Embedded,
    },
    /// The offset in the path is beyond the file.
    #[error("{}: offset {offset} is beyond the end of the file ({length} bytes)", path.display())]
    Offset {
        /// The file.
        path: PathBuf,
        /// The offset.
        offset: u64,
        /// The size of the file in bytes.
        length: u64,
    },
    /// A SIF file without a readable root file system.
    #[error("{}", path.display())]
    Sif {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: SifError,
    },
    /// The layer is invalid.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// More layers than a root can have.
    #[error(
        "{count} layers: a root can have at most {}; merge several overlays into one",
        fs_model::stack::MAX_LAYERS
    )]
    TooMany {
        /// The number of layers.
        count: usize,
    },
}

impl OpenError {
    /// Returns a way to fix the error, if there is one.
    pub fn hint(&self) -> Option<String> {
        match self {
            OpenError::Device { path, .. } => Some(format!(
                "run overcoat as root, or copy it to a file: sudo dd if={} of=FILE bs=1M",
                path.display()
            )),
            _ => None,
        }
    }
}

/// The layers of a root, and the images that they were opened from.
#[derive(Debug)]
pub struct OpenedLayers {
    /// The layers, lowest first.
    pub layers: Vec<Arc<dyn Layer>>,
    images: Vec<OpenedImage>,
}

#[derive(Clone)]
struct OpenedImage {
    name: String,
    bytes: Option<LayerBytes>,
}

impl std::fmt::Debug for OpenedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedImage").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Opens `paths`, lowest layer first.
///
/// # Errors
/// Fails for a path that cannot be read, has an unsupported format, or is damaged.
pub fn open(paths: &[PathBuf], caches: CacheOptions) -> Result<OpenedLayers, OpenError> {
    let mut opened = OpenedLayers { layers: Vec::new(), images: Vec::new() };
    for path in paths {
        let (layer, bytes) = open_one(path, caches, &opened.layers)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        opened.layers.push(layer);
        opened.images.push(OpenedImage { name, bytes });
    }
    Ok(opened)
}

/// Opens a layer on top of others, whose accounts give ids to names in a tar archive.
///
/// # Errors
/// See [`open`].
pub(crate) fn open_on(
    lower: &[Arc<dyn Layer>],
    path: &Path,
    caches: CacheOptions,
) -> Result<Arc<dyn Layer>, OpenError> {
    open_one(path, caches, lower).map(|(layer, _)| layer)
}

/// The magic number of a squashfs image.
const SQUASHFS_MAGIC: &[u8] = b"hsqs";
/// The magic numbers of cpio archives: plain, gzip, zstd.
const ARCHIVE_MAGICS: [&[u8]; 3] = [b"07070", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"];

/// Returns whether this is a regular file with the magic number of a layer, a SIF file or a tar
/// archive. Block
/// devices are not opened: the shell's completion checks all files of a directory, and opening a
/// device can take long.
pub(crate) fn is_image(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let head = file::head(path);
    let is_layer =
        [SQUASHFS_MAGIC].iter().chain(&ARCHIVE_MAGICS).any(|magic| head.starts_with(magic));
    is_layer || sif::is_sif(&head) || is_tar(&head)
}

/// Returns whether this is a file with the magic number of a squashfs image, or a SIF file.
pub(crate) fn is_squashfs(path: &Path) -> bool {
    let head = file::head(path);
    head.starts_with(SQUASHFS_MAGIC) || sif::is_sif(&head)
}

type LayerBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;
type OpenedLayer = (Arc<dyn Layer>, Option<LayerBytes>);

fn open_one(
    path: &Path,
    caches: CacheOptions,
    lower: &[Arc<dyn Layer>],
) -> Result<OpenedLayer, OpenError> {
    let name = path.to_string_lossy();
    if path.is_dir() {
        let layer = DirectoryLayer::open(path)?;
        if let Some(found) = layer.check_overlayfs_attributes()? {
            tracing::warn!(
                "{}: {found} is a whiteout or a file without data of another user, perhaps from \
                 overlayfs; only root can read the attributes by which overlayfs hides directories \
                 and finds data (trusted.overlay.*), so this layer may be shown incorrectly; run \
                 overcoat as root to avoid this",
                path.display()
            );
        }
        return Ok((Arc::new(layer), None));
    }
    let file = ImageFile::open(path)?;
    let bytes: LayerBytes = Arc::new(file.clone());
    let head = file.as_ref();
    let layer: Arc<dyn Layer> = if head.starts_with(SQUASHFS_MAGIC) {
        let layer = SquashfsLayer::open(&name, bytes.clone(), caches)?;
        layer.check_overlayfs_attributes()?;
        Arc::new(layer)
    } else if is_tar(head) {
        let accounts = |layer| accounts(lower, layer);
        let limits = Limits::default();
        Arc::new(TarLayer::open_with_accounts(&*name, bytes.clone(), limits, accounts)?)
    } else if ARCHIVE_MAGICS.iter().any(|magic| head.starts_with(magic)) {
        Arc::new(CpioLayer::open(&*name, bytes.clone(), Limits::default())?)
    } else {
        let path = path.to_owned();
        return Err(match Embedded::find(&file) {
            Some(embedded) => OpenError::Embedded { path, embedded },
            None => OpenError::Unknown { path },
        });
    };
    Ok((layer, Some(bytes)))
}

/// Returns the accounts of the root that consists of `lower` and `layer`.
fn accounts(lower: &[Arc<dyn Layer>], layer: Arc<TarLayer>) -> Result<AccountIds, LayerError> {
    let mut layers = lower.to_vec();
    layers.push(layer);
    match lower::lower_tree(&layers).and_then(|tree| Accounts::ids_in(&tree)) {
        Ok(found) => Ok(found),
        Err(FsError::Layer(error)) => Err(error),
        // There are too many layers, which is an error of the root.
        Err(_) => Ok(AccountIds::default()),
    }
}

/// Digests being computed by a thread.
#[derive(Debug)]
pub struct Digests {
    thread: JoinHandle<Vec<BaseLayer>>,
}

impl OpenedLayers {
    /// Starts a thread that computes the SHA-256 of each image.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub fn digest(&self) -> std::io::Result<Digests> {
        let images = self.images.clone();
        let thread = std::thread::Builder::new().name("digest".into()).spawn(move || {
            images
                .into_iter()
                .map(|image| BaseLayer {
                    name: image.name,
                    sha256: image.bytes.map_or_else(String::new, |b| sha256_hex((*b).as_ref())),
                })
                .collect()
        })?;
        Ok(Digests { thread })
    }
}

impl Digests {
    /// Waits for the digests.
    pub fn finish(self) -> Vec<BaseLayer> {
        self.thread.join().unwrap_or_default()
    }
}

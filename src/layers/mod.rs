//! Opening layers: what a path on the command line is, by its content.

mod embedded;
mod file;
mod sif;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fs_model::LayerError;
use fs_model::layer::Layer;
use fs_model::layer::cpio::{CpioLayer, Limits};
use fs_model::layer::directory::DirectoryLayer;
use fs_model::layer::squashfs::{CacheOptions, SquashfsLayer};
use sha2::{Digest, Sha256};

use crate::seal::BaseLayer;
use crate::seal::manifest::hex;

pub use embedded::Embedded;
pub use file::ImageFile;
pub use sif::SifError;

/// A layer could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be opened or mapped.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A block device that this user may not read.
    #[error(
        "cannot open the block device {path}: {source}: run overcoat as root, or copy the device to \
         a file: sudo dd if={path} of=FILE bs=1M",
        path = path.display()
    )]
    Device {
        /// The device.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is none of the formats.
    #[error(
        "{}: neither a squashfs image nor a newc cpio archive (plain, gzip or zstd) nor a directory",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// The file begins as none of the formats, and has squashfs images in it.
    #[error("{}: {embedded}", path.display())]
    Embedded {
        /// The file.
        path: PathBuf,
        /// Where the images are, and how to name them.
        embedded: Embedded,
    },
    /// The offset in the path is not within the file.
    #[error("{}: byte {offset} is after the end of the file, which has {length} bytes", path.display())]
    Offset {
        /// The file.
        path: PathBuf,
        /// The offset.
        offset: u64,
        /// Bytes of the file.
        length: u64,
    },
    /// A SIF file without a root that can be read.
    #[error("{}: {source}", path.display())]
    Sif {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SifError,
    },
    /// The layer itself is at fault.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// More layers than a root can have.
    #[error(
        "{count} layers: a root has {} at the most; make one overlay of several",
        fs_model::stack::MAX_LAYERS
    )]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// The layers of a root, and what they were opened from.
#[derive(Debug)]
pub struct Layers {
    /// Lowest first.
    pub layers: Vec<Arc<dyn Layer>>,
    images: Vec<Image>,
}

#[derive(Clone)]
struct Image {
    name: String,
    bytes: Option<Bytes>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Opens `paths`, lowest layer first.
///
/// # Errors
/// A path that cannot be read, is none of the known formats, or is damaged.
pub fn open(paths: &[PathBuf], caches: CacheOptions) -> Result<Layers, OpenError> {
    let mut opened = Layers { layers: Vec::new(), images: Vec::new() };
    for path in paths {
        let (layer, bytes) = open_one(path, caches)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        opened.layers.push(layer);
        opened.images.push(Image { name, bytes });
    }
    Ok(opened)
}

/// The magic number of a squashfs image.
const SQUASHFS: &[u8] = b"hsqs";
/// The magic numbers of archives: plain, gzip, zstd.
const ARCHIVES: [&[u8]; 3] = [b"07070", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"];

/// Whether this is a regular file that begins as a layer does, or a SIF file. Block devices are not
/// opened: the shell's completion asks for all files of a folder, and opening one can take long.
pub fn is_image(path: &Path) -> bool {
    if !path.is_file() {
        return false;
    }
    let head = file::head(path);
    let is_layer = [SQUASHFS].iter().chain(&ARCHIVES).any(|magic| head.starts_with(magic));
    is_layer || sif::is_sif(&head)
}

/// Whether this is a file that begins as a squashfs image does, or a SIF file.
pub fn is_squashfs(path: &Path) -> bool {
    let head = file::head(path);
    head.starts_with(SQUASHFS) || sif::is_sif(&head)
}

type Bytes = Arc<dyn AsRef<[u8]> + Send + Sync>;
type Opened = (Arc<dyn Layer>, Option<Bytes>);

fn open_one(path: &Path, caches: CacheOptions) -> Result<Opened, OpenError> {
    let name = path.to_string_lossy();
    if path.is_dir() {
        let layer = DirectoryLayer::open(path)?;
        if let Some(found) = layer.check_overlayfs_attributes()? {
            tracing::warn!(
                "{}: {found} is a whiteout or a file without data of another user, perhaps from \
                 overlayfs; only root can read the attributes by which overlayfs hides directories \
                 and finds data (trusted.overlay.*), so this layer may be shown wrongly; run this \
                 as root to be sure",
                path.display()
            );
        }
        return Ok((Arc::new(layer), None));
    }
    let file = ImageFile::open(path)?;
    let bytes: Bytes = Arc::new(file.clone());
    let head = file.as_ref();
    let layer: Arc<dyn Layer> = if head.starts_with(SQUASHFS) {
        let layer = SquashfsLayer::open(&name, bytes.clone(), caches)?;
        layer.check_overlayfs_attributes()?;
        Arc::new(layer)
    } else if ARCHIVES.iter().any(|magic| head.starts_with(magic)) {
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

/// Digests that are being computed.
#[derive(Debug)]
pub struct Digests {
    thread: JoinHandle<Vec<BaseLayer>>,
}

impl Layers {
    /// Begins to compute the SHA-256 of each image, in a thread of its own.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn digest(&self) -> std::io::Result<Digests> {
        let images = self.images.clone();
        let thread = std::thread::Builder::new().name("digest".into()).spawn(move || {
            images
                .into_iter()
                .map(|image| BaseLayer {
                    name: image.name,
                    sha256: image
                        .bytes
                        .map_or_else(String::new, |b| hex(&Sha256::digest((*b).as_ref()))),
                })
                .collect()
        })?;
        Ok(Digests { thread })
    }
}

impl Digests {
    /// Waits for them.
    pub fn finish(self) -> Vec<BaseLayer> {
        self.thread.join().unwrap_or_default()
    }
}

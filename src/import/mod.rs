//! Root file systems that others made, taken into a tree.

mod layers;
pub mod marks;
mod tar;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use fs_model::layer::squashfs::CacheOptions;
use fs_model::{FsError, Tree};
use provisioners::image::ImageLocation;

use crate::below;
use crate::layers::OpenError;

pub use tar::tar;

/// Paths are shorter than this, in bytes.
const PATH_MAX: usize = 4096;

/// Bytes that are moved at a time.
const COPY_BUFFER: usize = 256 << 10;

/// A root file system could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read, or is no tar.
    #[error("cannot read the tar stream: {0}")]
    Read(#[from] io::Error),
    /// It is damaged, or cannot be read.
    #[error("{}: damaged: {source}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// It cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none of the formats.
    #[error(
        "{}: neither a tar archive (plain, gzip, xz or zstd) nor a squashfs image nor a newc cpio \
         archive nor a directory",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// A layer that is taken in cannot be opened.
    #[error(transparent)]
    Layer(#[from] OpenError),
    /// A layer that is taken in is damaged.
    #[error(transparent)]
    Damaged(FsError),
    /// An entry of it cannot be made.
    #[error("cannot take in {path}: {source}")]
    Entry {
        /// The entry's name.
        path: String,
        /// Why.
        source: FsError,
    },
    /// An entry of it makes no sense.
    #[error("cannot take in {path}: {what}")]
    Senseless {
        /// The entry's name.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// Takes the root file system at `path` into `tree`, which may not be mounted yet: a tar archive,
/// plain or compressed by gzip, xz or zstd, or whatever can be a layer. Entries whose path `skip`
/// says yes to are left out, with what is below them.
///
/// # Errors
/// When it is none of these or damaged, or the upper is full: the tree then holds part of it.
pub fn from(tree: &Tree, path: &Path, skip: impl Fn(&[u8]) -> bool) -> Result<(), ImportError> {
    let open = |source| ImportError::Open { path: path.to_owned(), source };
    let location = ImageLocation::of(path);
    let mut file = File::open(&location.file).map_err(open)?;
    let mut head = Vec::new();
    // A tar archive begins at the first byte of its file.
    if location.offset == 0 && file.metadata().map_err(open)?.is_file() {
        head = beginning(decoded(&mut file)?)?;
        file.rewind().map_err(open)?;
    }
    if !is_tar(&head) {
        let opened = crate::layers::open(&[path.to_owned()], CacheOptions::default());
        let opened = opened.map_err(|error| match error {
            OpenError::Unknown { path } => ImportError::Unknown { path },
            error => error.into(),
        })?;
        let from = below::tree_of(&opened.layers).map_err(ImportError::Damaged)?;
        return layers::tree(&from, tree, &skip);
    }
    let named = |error| match error {
        ImportError::Read(source) => ImportError::Archive { path: path.to_owned(), source },
        error => error,
    };
    decoded(file).map_err(ImportError::from).and_then(|file| tar(tree, file, skip)).map_err(named)
}

/// What a file holds, once it is no longer compressed.
fn decoded<'a>(mut file: impl Read + Seek + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let head = beginning(&mut file)?;
    file.rewind()?;
    let file = BufReader::with_capacity(COPY_BUFFER, file);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

/// The first 512 bytes, or what there is.
fn beginning(from: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    from.take(512).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether a file that begins so is a tar archive: ustar and its kin say so themselves.
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// Refuses a path that is longer than any that can be asked for, which bounds how deep it leads.
fn too_long(path: &[u8]) -> Result<(), ImportError> {
    if path.len() < PATH_MAX {
        return Ok(());
    }
    let path = format!("{}…", text(&path[..80]));
    Err(ImportError::Senseless { path, what: "its path is longer than 4,095 bytes" })
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn at(path: &[u8]) -> impl FnOnce(FsError) -> ImportError + '_ {
    move |source| ImportError::Entry { path: text(path), source }
}

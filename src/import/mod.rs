//! Root file systems that others made, taken into a tree.

mod layers;
pub mod marks;
mod tar;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use flate2::bufread::GzDecoder;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::tar::{BLOCK_SIZE, TarError, is_header};
use fs_model::{FsError, Tree};
use provisioners::image::ImageLocation;

use crate::below;
use crate::layers::OpenError;
use crate::seal::path::escape;

pub use tar::{MemberError, tar};

/// Paths are shorter than this, in bytes.
const PATH_MAX: usize = 4096;

/// Bytes that are moved at a time.
const COPY_BUFFER: usize = 256 << 10;

/// A root file system could not be taken in.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A tar stream cannot be read.
    #[error("cannot read the tar stream: {0}")]
    Tar(#[from] TarError),
    /// A tar archive cannot be read.
    #[error("{}: {source}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: TarError,
    },
    /// A compressed file cannot be read.
    #[error("{}: damaged: {source}", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// A member of a tar archive cannot be made.
    #[error("cannot take in {path}: {source}")]
    Member {
        /// The member's name.
        path: String,
        /// Why.
        source: MemberError,
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
/// says yes to are left out, with what is below them. `report` is called as by [`tar()`].
///
/// # Errors
/// When it is none of these or damaged, or the upper is full: the tree then holds part of it.
pub fn from(
    tree: &Tree,
    path: &Path,
    skip: impl Fn(&[u8]) -> bool,
    report: &mut dyn FnMut(String),
) -> Result<(), ImportError> {
    let open = |source| ImportError::Open { path: path.to_owned(), source };
    let damaged = |source| ImportError::Compressed { path: path.to_owned(), source };
    let location = ImageLocation::of(path);
    let mut file = File::open(&location.file).map_err(open)?;
    let mut head = Vec::new();
    // A tar archive begins at the first byte of its file.
    if location.offset == 0 && file.metadata().map_err(open)?.is_file() {
        head = beginning(decoded(&mut file).map_err(damaged)?).map_err(damaged)?;
        file.rewind().map_err(open)?;
    }
    if !is_header(&head) {
        let opened = crate::layers::open(&[path.to_owned()], CacheOptions::default());
        let opened = opened.map_err(|error| match error {
            OpenError::Unknown { path } => ImportError::Unknown { path },
            error => error.into(),
        })?;
        let from = below::tree_of(&opened.layers).map_err(ImportError::Damaged)?;
        return layers::tree(&from, tree, &skip);
    }
    let named = |error| match error {
        ImportError::Tar(source) => ImportError::Archive { path: path.to_owned(), source },
        error => error,
    };
    tar(tree, decoded(file).map_err(damaged)?, skip, report).map_err(named)
}

/// The content of a file, decompressed.
fn decoded<'a>(mut file: impl Read + Seek + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let head = beginning(&mut file)?;
    file.rewind()?;
    let file = BufReader::with_capacity(COPY_BUFFER, file);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(Gzip(Some(GzDecoder::new(file)))),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(file))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

/// The members of a gzip file, the current one first, as gzip itself reads them: zeros may follow
/// the last one. `None` at the end.
struct Gzip<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(mut member) = self.0.take() {
            let read = member.read(buffer);
            if !matches!(read, Ok(0)) || buffer.is_empty() {
                self.0 = Some(member);
                return read;
            }
            let mut rest = member.into_inner();
            loop {
                match rest.fill_buf() {
                    Ok([]) => break,
                    Ok([0x1f, ..]) => {
                        self.0 = Some(GzDecoder::new(rest));
                        break;
                    }
                    Ok([0, ..]) => rest.consume(1),
                    Ok(_) => {
                        let what = "after the compressed data there is something else";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(0)
    }
}

/// The first block of a tar archive, or what there is of it.
fn beginning(from: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    from.take(BLOCK_SIZE as u64).read_to_end(&mut head)?;
    Ok(head)
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
    escape(path).into_owned()
}

fn at(path: &[u8]) -> impl FnOnce(FsError) -> ImportError + '_ {
    move |source| ImportError::Entry { path: text(path), source }
}

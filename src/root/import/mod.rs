//! Imports foreign root file systems into a tree.

pub(crate) mod container_files;
mod layers;
mod tar;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use fs_model::layer::squashfs::CacheOptions;
use fs_model::tar::{BLOCK_SIZE, TarError, is_header};
use fs_model::tree::{MknodArgs, SetAttr};
use fs_model::{FsError, Ino, Tree};
use provisioners::image::ImageLocation;

use crate::image::open::OpenError;
use crate::manifest::lower;
use crate::root::compression::Compression;
use crate::text::escape::escape;

pub use tar::{MemberError, tar};

/// Paths must be shorter than this, in bytes.
const PATH_MAX: usize = 4096;

/// Bytes copied at a time.
const COPY_BUFFER_BYTES: usize = 256 << 10;

/// Directories that an init system mounts file systems at, and their modes.
const MOUNT_POINTS: [(&[u8], u16); 5] =
    [(b"dev", 0o755), (b"proc", 0o555), (b"run", 0o755), (b"sys", 0o555), (b"tmp", 0o1777)];

/// Creates the directories that a root needs as mount points and lacks. The sandbox mounts its own
/// file systems there, so a provisioner cannot. Returns their paths.
///
/// # Errors
/// Fails if a layer cannot be read, or the upper is full.
pub fn add_mount_points(tree: &Tree) -> Result<Vec<Vec<u8>>, FsError> {
    let mtime = tree.attr(Ino::ROOT)?.mtime;
    let mut added = Vec::new();
    for (name, mode) in MOUNT_POINTS {
        match tree.lookup(Ino::ROOT, name) {
            Ok(entry) => tree.forget(entry.ino, 1),
            Err(FsError::NotFound) => {
                let entry = tree.mknod(Ino::ROOT, name, &MknodArgs::directory(mode, 0, 0))?;
                let set = SetAttr { mtime: Some(mtime), ..SetAttr::default() };
                let done = tree.set_attr(entry.ino, &set);
                tree.forget(entry.ino, 1);
                done?;
                added.push(name.to_vec());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(added)
}

/// An error while importing a root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootImportError {
    /// A tar stream cannot be read.
    #[error("cannot read the tar stream")]
    Tar(#[from] TarError),
    /// A tar archive cannot be read.
    #[error("{}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: TarError,
    },
    /// A compressed file cannot be read.
    #[error("{}: damaged", path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A member of a tar archive cannot be created.
    #[error("cannot import {path}")]
    Member {
        /// The member's name.
        path: String,
        /// The reason.
        source: MemberError,
    },
    /// The path cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file has none of the supported formats.
    #[error(
        "{}: not a tar archive (plain, gzip, xz or zstd), a squashfs image, a newc cpio archive \
         or a directory",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// A layer cannot be opened.
    #[error(transparent)]
    Layer(#[from] OpenError),
    /// A layer is damaged.
    #[error(transparent)]
    Damaged(FsError),
    /// An entry of a layer cannot be created.
    #[error("cannot import {path}")]
    Entry {
        /// The entry's name.
        path: String,
        /// The reason.
        source: FsError,
    },
    /// An invalid entry.
    #[error("cannot import {path}: {what}")]
    Invalid {
        /// The entry's name.
        path: String,
        /// The reason.
        what: &'static str,
    },
}

/// Imports the root file system at `path` into `tree`, which must not be mounted yet: a tar
/// archive, plain or compressed by gzip, xz or zstd, or any kind of layer. Entries whose path
/// satisfies `skip` are left out, with everything below them. `report` is called as by [`tar()`].
///
/// # Errors
/// Fails for an unsupported or damaged file, or a full upper: the tree then contains a part of it.
pub(crate) fn import_path(
    tree: &Tree,
    path: &Path,
    skip: impl Fn(&[u8]) -> bool,
    report: &mut dyn FnMut(String),
) -> Result<(), RootImportError> {
    let open = |source| RootImportError::Open { path: path.to_owned(), source };
    let damaged = |source| RootImportError::Compressed { path: path.to_owned(), source };
    let location = ImageLocation::of(path);
    let mut file = File::open(&location.file).map_err(open)?;
    let mut head = Vec::new();
    // A tar archive begins at the first byte of its file.
    if location.offset == 0 && file.metadata().map_err(open)?.is_file() {
        head = first_block(decoder(&mut file).map_err(damaged)?).map_err(damaged)?;
        file.rewind().map_err(open)?;
    }
    if !is_header(&head) {
        let opened = crate::image::open::open(&[path.to_owned()], CacheOptions::default());
        let opened = opened.map_err(|error| match error {
            OpenError::Unknown { path } => RootImportError::Unknown { path },
            error => error.into(),
        })?;
        let from = lower::lower_tree(&opened.layers).map_err(RootImportError::Damaged)?;
        return layers::tree(&from, tree, &skip);
    }
    let named = |error| match error {
        RootImportError::Tar(source) => RootImportError::Archive { path: path.to_owned(), source },
        error => error,
    };
    tar(tree, decoder(file).map_err(damaged)?, skip, report).map_err(named)
}

/// Returns a reader of a file's decompressed content.
fn decoder<'a>(mut file: impl Read + Seek + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let head = first_block(&mut file)?;
    file.rewind()?;
    let file = BufReader::with_capacity(COPY_BUFFER_BYTES, file);
    match Compression::detect(&head) {
        Some(compression) => compression.decoder(file),
        None => Ok(Box::new(file)),
    }
}

/// Reads the first block of a tar archive, or less at the end of the file.
fn first_block(from: impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    from.take(BLOCK_SIZE as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Rejects a path that is too long to be opened, which also bounds the depth.
fn check_path_length(path: &[u8]) -> Result<(), RootImportError> {
    if path.len() < PATH_MAX {
        return Ok(());
    }
    let path = format!("{}…", text(&path[..80]));
    Err(RootImportError::Invalid { path, what: "its path is longer than 4,095 bytes" })
}

fn text(path: &[u8]) -> String {
    escape(path).into_owned()
}

fn at(path: &[u8]) -> impl FnOnce(FsError) -> RootImportError + '_ {
    move |source| RootImportError::Entry { path: text(path), source }
}

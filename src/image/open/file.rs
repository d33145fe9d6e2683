//! The bytes of an image: a file or a block device, from an offset.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use provisioners::image::ImageLocation;

use super::{OpenError, sif};
use crate::sandbox::map_image;

/// Number of first bytes that identify an image: the header of a tar archive.
const HEAD_BYTES: u64 = fs_model::tar::BLOCK_SIZE as u64;

/// The bytes of an image: a whole file, the part after an offset, or a partition of a SIF file.
#[derive(Clone, Debug)]
pub(crate) struct ImageFile {
    map: Arc<Mmap>,
    range: Range<usize>,
    /// The path of the file, without an offset.
    file: PathBuf,
}

impl AsRef<[u8]> for ImageFile {
    fn as_ref(&self) -> &[u8] {
        self.map.get(self.range.clone()).unwrap_or_default()
    }
}

impl ImageFile {
    /// Maps the image at `path`, which may end in an offset ([`ImageLocation`]). For a SIF file,
    /// maps its root file system.
    ///
    /// # Errors
    /// Fails if the file cannot be mapped, the offset is beyond its end, or a SIF file has no
    /// root file system that can be read.
    pub(crate) fn open(path: &Path) -> Result<ImageFile, OpenError> {
        let ImageLocation { file, offset } = ImageLocation::of(path);
        let map = map_image(&file).map_err(|source| {
            let is_device = std::fs::metadata(&file).is_ok_and(|m| m.file_type().is_block_device());
            match is_device && source.kind() == ErrorKind::PermissionDenied {
                true => OpenError::Device { path: file.clone(), source },
                false => OpenError::Io { path: path.to_owned(), source },
            }
        })?;
        let length = map.len();
        let start = usize::try_from(offset).ok().filter(|start| *start < length || offset == 0);
        let Some(start) = start else {
            return Err(OpenError::Offset { path: file, offset, length: length as u64 });
        };
        let mut image = ImageFile { map: Arc::new(map), range: start..length, file };
        if sif::is_sif(image.as_ref()) {
            let root = sif::root_partition(image.as_ref())
                .map_err(|source| OpenError::Sif { path: path.to_owned(), source })?;
            image = image.part(root);
        }
        Ok(image)
    }

    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.as_ref().len() as u64
    }

    /// Returns the path of the file, without an offset.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns the offset of the first byte in the file.
    pub(super) fn start(&self) -> usize {
        self.range.start
    }

    /// Returns a part of the image, truncated at its end.
    pub(super) fn part(&self, range: Range<usize>) -> ImageFile {
        let within = |at: usize| self.range.start.saturating_add(at).min(self.range.end);
        ImageFile { range: within(range.start)..within(range.end), ..self.clone() }
    }
}

/// Returns the first bytes of an image; empty unless it is a readable file or block device.
pub(super) fn head(path: &Path) -> Vec<u8> {
    let ImageLocation { file, offset } = ImageLocation::of(path);
    let mut head = Vec::new();
    // Opening a pipe would wait for a writer.
    let is_readable = std::fs::metadata(&file)
        .is_ok_and(|meta| meta.is_file() || meta.file_type().is_block_device());
    if is_readable
        && let Ok(mut file) = std::fs::File::open(&file)
        && file.seek(SeekFrom::Start(offset)).is_ok()
    {
        // After an error `head` has the bytes read before it.
        let _ = file.take(HEAD_BYTES).read_to_end(&mut head);
    }
    head
}

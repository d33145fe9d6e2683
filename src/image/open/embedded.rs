//! Squashfs images inside other files: AppImages, firmware, images of partitioned disks.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use fs_model::layer::squashfs::{CacheOptions, SquashfsLayer};
use memchr::memmem::Finder;
use provisioners::image::ImageLocation;

use super::{ImageFile, SQUASHFS_MAGIC};

/// Bytes that are searched at every alignment.
const SEARCHED_BYTES: usize = 256 << 20;
/// After these bytes only offsets where partitions begin are searched: each MiB.
const PARTITION_ALIGNMENT: usize = 1 << 20;
/// Maximum number of such offsets: the first 64 GiB.
const MAX_PARTITIONS: usize = 64 << 10;
/// Maximum number of magic numbers that are checked. They are rare in other data.
const MAX_CANDIDATES: usize = 4096;
/// Maximum number of images that are reported.
const MAX_REPORTED_IMAGES: usize = 4;

/// The first images found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    is_app_image: bool,
    images: Vec<ImageLocation>,
}

impl Embedded {
    /// Searches for squashfs images in a file that does not begin with one. An image must open: its
    /// superblock is valid, its tables are within the file, and its root is a directory.
    pub(super) fn find(file: &ImageFile) -> Option<Embedded> {
        let bytes = file.as_ref();
        let finder = Finder::new(SQUASHFS_MAGIC);
        let near = &bytes[..bytes.len().min(SEARCHED_BYTES)];
        let far = (SEARCHED_BYTES..bytes.len()).step_by(PARTITION_ALIGNMENT).take(MAX_PARTITIONS);
        let far = far.filter(|at| bytes[*at..].starts_with(SQUASHFS_MAGIC));
        let candidates = finder.find_iter(near).chain(far).take(MAX_CANDIDATES);
        let mut found: Vec<Range<usize>> = Vec::new();
        for at in candidates {
            // An image may contain others.
            if found.last().is_some_and(|last| last.contains(&at)) {
                continue;
            }
            let part: Arc<ImageFile> = Arc::new(file.part(at..bytes.len()));
            if let Ok(layer) = SquashfsLayer::open("", part, CacheOptions::default()) {
                let used = usize::try_from(layer.superblock().bytes_used).unwrap_or(usize::MAX);
                found.push(at..at.saturating_add(used));
            }
            if found.len() == MAX_REPORTED_IMAGES {
                break;
            }
        }
        let is_app_image = bytes.starts_with(b"\x7fELF") && bytes.get(8..11) == Some(b"AI\x02");
        let location = |image: Range<usize>| ImageLocation {
            file: file.file().to_owned(),
            offset: (file.start() + image.start) as u64,
        };
        let images: Vec<_> = found.into_iter().map(location).collect();
        (!images.is_empty()).then_some(Embedded { is_app_image, images })
    }
}

impl fmt::Display for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_app_image {
            f.write_str("an AppImage: ")?;
        }
        let Some(first) = self.images.first() else { return Ok(()) };
        let offsets: Vec<_> = self.images.iter().map(|image| image.offset.to_string()).collect();
        let path = first.path();
        f.write_str("not an image at its first byte, but ")?;
        match self.images.len() {
            1 => write!(f, "a squashfs image begins at byte {}", first.offset)?,
            _ => write!(f, "squashfs images begin at the bytes {}", offsets.join(", "))?,
        }
        write!(f, ": use {}", path.display())
    }
}

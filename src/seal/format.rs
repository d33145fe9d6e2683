//! Properties of the formats that archives are written in.

use fs_model::tree::XattrSupport;

use super::error::SealError;
use super::plan::{FormatLimits, PATH_LIMIT};
use super::{gzip, newc, squashfs, zstd};
use crate::manifest::Format;

/// What a format can hold, and its compression levels.
pub(crate) trait ArchiveFormat: Copy {
    /// Returns the extended attributes that the format can hold.
    fn xattrs(self) -> XattrSupport;

    /// Returns the level to use for the requested level `asked`; `None` if the format has no
    /// levels.
    ///
    /// # Errors
    /// Fails for a level that the format does not have.
    fn level(self, asked: Option<u32>) -> Result<Option<u32>, SealError>;
}

impl ArchiveFormat for Format {
    fn xattrs(self) -> XattrSupport {
        match self {
            Format::Tar => XattrSupport::All,
            // squashfs has only the namespaces `user`, `trusted` and `security`. mksquashfs ends
            // the name of an attribute in a tar archive at the first `=`.
            Format::Squashfs => XattrSupport::WithoutAcls,
            Format::Cpio | Format::CpioGz | Format::CpioZst => XattrSupport::None,
        }
    }

    fn level(self, asked: Option<u32>) -> Result<Option<u32>, SealError> {
        let (default, max, range) = match self {
            Format::CpioGz => (gzip::DEFAULT_LEVEL, 9, "1 to 9"),
            Format::CpioZst => (zstd::DEFAULT_LEVEL, 19, "1 to 19"),
            Format::Squashfs => (squashfs::DEFAULT_LEVEL, 22, "1 to 22"),
            Format::Cpio | Format::Tar => (0, 0, "none"),
        };
        match asked {
            None => Ok((max > 0).then_some(default)),
            Some(level) if (1..=max).contains(&level) => Ok(Some(level)),
            Some(level) => Err(SealError::Level { format: self, level, range }),
        }
    }
}

/// Whether the archive is written as a tar, for a squashfs to the program that makes the image.
pub(super) const fn is_tar(format: Format) -> bool {
    matches!(format, Format::Tar | Format::Squashfs)
}

/// Returns the limits of a format.
pub(super) const fn limits(format: Format) -> FormatLimits {
    match format {
        Format::Tar | Format::Squashfs => {
            FormatLimits { file_size: u64::MAX, path: PATH_LIMIT, links_of_all: true }
        }
        Format::Cpio | Format::CpioGz | Format::CpioZst => {
            FormatLimits { file_size: newc::FILE_SIZE_LIMIT, path: PATH_LIMIT, links_of_all: false }
        }
    }
}

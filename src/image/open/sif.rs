//! SIF, the format of Apptainer and Singularity: a header, a table of descriptors, and the objects
//! that they describe. The root file system is the primary system partition.
//!
//! The layout is in `pkg/sif` of github.com/apptainer/sif (version 01): packed structures,
//! little-endian.

use std::ops::Range;

use super::SQUASHFS_MAGIC;

/// Size of the header, at the start of the file.
pub(super) const HEADER_BYTES: usize = 128;
/// Size of a descriptor.
const DESCRIPTOR_BYTES: usize = 585;
/// Maximum number of descriptors. Writers make a table of 48.
const MAX_DESCRIPTORS: u64 = 4096;

const MAGIC: &[u8] = b"SIF_MAGIC\0";
/// The magic comes after the launch script.
const MAGIC_AT: usize = 32;
const VERSION: &[u8] = b"01";

/// `DataPartition`, a type of data.
const PARTITION: u32 = 0x4004;
/// `DataOCIRootIndex` and `DataOCIBlob`: an OCI image in a SIF file.
const OCI: Range<u32> = 0x400a..0x400c;

/// Types of partitions.
const PRIMARY_SYSTEM: u32 = 2;
const OVERLAY: u32 = 4;

/// A SIF file without a root file system that overcoat can read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SifError {
    /// Another version of the format.
    #[error("a SIF file of version {0}: overcoat supports version 01")]
    Version(String),
    /// The header or a descriptor refers to bytes beyond the end of the file.
    #[error("a damaged SIF file: its {0} is beyond the end of the file")]
    BeyondEnd(&'static str),
    /// No primary system partition.
    #[error("a SIF file without a primary system partition: it has no root file system")]
    NoRoot,
    /// An OCI image in a SIF file.
    #[error(
        "a SIF file that contains an OCI image: convert it to a directory with \
         `apptainer build --sandbox DIR FILE` (or singularity), and use that"
    )]
    Oci,
    /// The primary system partition has another file system.
    #[error(
        "a SIF file whose root file system is {0}, but overcoat supports only squashfs: convert it \
         to a directory with `apptainer build --sandbox DIR FILE`, and use that"
    )]
    FileSystem(&'static str),
    /// The primary system partition does not begin with a squashfs image.
    #[error("a damaged SIF file: its root file system, at byte {0}, is not a squashfs image")]
    NotSquashfs(usize),
    /// An overlay covers the primary system partition.
    #[error(
        "a SIF file with an overlay partition, which changes the root file system and is not \
         supported: use a directory made with `apptainer build --sandbox DIR FILE`; for the \
         root without the overlay, at byte {0}, use FILE@{0}"
    )]
    Overlay(usize),
}

/// Returns whether a file that begins with these bytes is a SIF file.
pub(super) fn is_sif(head: &[u8]) -> bool {
    head.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC)
}

/// Returns the range if it is within a file of `length` bytes.
fn within(length: usize, offset: u64, size: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= length).then_some(start..end)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Returns the range of the root file system in a SIF file.
pub(super) fn root_partition(file: &[u8]) -> Result<Range<usize>, SifError> {
    let header = file.get(..HEADER_BYTES).ok_or(SifError::BeyondEnd("header"))?;
    let version = &header[42..44];
    if version != VERSION {
        return Err(SifError::Version(version.escape_ascii().to_string()));
    }
    let (Some(count), Some(table)) = (u64_at(header, 88), u64_at(header, 96)) else {
        return Err(SifError::BeyondEnd("header"));
    };
    let table = within(file.len(), table, count.saturating_mul(DESCRIPTOR_BYTES as u64))
        .filter(|_| count <= MAX_DESCRIPTORS)
        .ok_or(SifError::BeyondEnd("table of descriptors"))?;

    let mut root = None;
    let (mut oci, mut overlay) = (false, false);
    for descriptor in file[table].chunks_exact(DESCRIPTOR_BYTES).filter(|raw| raw[4] != 0) {
        let kind = u32_at(descriptor, 0).unwrap_or_default();
        oci |= OCI.contains(&kind);
        if kind != PARTITION {
            continue;
        }
        // The types of the file system and of the partition, then the architecture.
        let extra = DESCRIPTOR_BYTES - 384;
        match u32_at(descriptor, extra + 4) {
            Some(PRIMARY_SYSTEM) => root = root.or(Some(descriptor)),
            Some(OVERLAY) => overlay = true,
            _ => {}
        }
    }
    let Some(root) = root else {
        return Err(if oci { SifError::Oci } else { SifError::NoRoot });
    };
    match u32_at(root, DESCRIPTOR_BYTES - 384) {
        Some(1) => {}
        Some(2) => return Err(SifError::FileSystem("ext3")),
        Some(3) => return Err(SifError::FileSystem("an archive")),
        Some(5) => return Err(SifError::FileSystem("encrypted")),
        _ => return Err(SifError::FileSystem("of an unknown type")),
    }
    let (offset, size) =
        (u64_at(root, 17).unwrap_or(u64::MAX), u64_at(root, 25).unwrap_or(u64::MAX));
    let root = within(file.len(), offset, size).ok_or(SifError::BeyondEnd("root file system"))?;
    if !file[root.clone()].starts_with(SQUASHFS_MAGIC) {
        return Err(SifError::NotSquashfs(root.start));
    }
    match overlay {
        true => Err(SifError::Overlay(root.start)),
        false => Ok(root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a SIF file with these partitions: type of file system, type of partition, content.
    fn file(partitions: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; HEADER_BYTES];
        file[MAGIC_AT..MAGIC_AT + MAGIC.len()].copy_from_slice(MAGIC);
        file[42..44].copy_from_slice(VERSION);
        let slots = partitions.len() + 2;
        file[88..96].copy_from_slice(&(slots as u64).to_le_bytes());
        file[96..104].copy_from_slice(&(HEADER_BYTES as u64).to_le_bytes());
        let mut data = HEADER_BYTES + slots * DESCRIPTOR_BYTES;
        file.resize(data, 0);
        for (index, (system, kind, content)) in partitions.iter().enumerate() {
            // The first slot is unused.
            let at = HEADER_BYTES + (index + 1) * DESCRIPTOR_BYTES;
            file[at..at + 4].copy_from_slice(&PARTITION.to_le_bytes());
            file[at + 4] = 1;
            file[at + 17..at + 25].copy_from_slice(&(data as u64).to_le_bytes());
            file[at + 25..at + 33].copy_from_slice(&(content.len() as u64).to_le_bytes());
            file[at + 201..at + 205].copy_from_slice(&system.to_le_bytes());
            file[at + 205..at + 209].copy_from_slice(&kind.to_le_bytes());
            data += content.len();
        }
        partitions.iter().for_each(|(_, _, content)| file.extend_from_slice(content));
        file
    }

    #[test]
    fn the_root_is_the_primary_system_partition() {
        let root = |partitions: &[(u32, u32, &[u8])]| {
            let file = file(partitions);
            root_partition(&file).map(|range| file[range].to_vec())
        };
        let (image, other) = (&b"hsqs of the root"[..], &b"hsqs of another"[..]);
        assert_eq!(root(&[(1, 3, other), (1, 2, image), (1, 1, other)]).unwrap(), image);
        assert_eq!(root(&[(1, 1, other)]), Err(SifError::NoRoot));
        assert_eq!(root(&[]), Err(SifError::NoRoot));
        assert_eq!(root(&[(2, 2, other)]), Err(SifError::FileSystem("ext3")));
        assert_eq!(root(&[(5, 2, other)]), Err(SifError::FileSystem("encrypted")));
        assert!(matches!(root(&[(1, 2, image), (2, 4, b"ext3")]), Err(SifError::Overlay(_))));
        assert!(matches!(root(&[(1, 2, b"what?")]), Err(SifError::NotSquashfs(_))));
    }

    #[test]
    fn damaged_files_are_errors() {
        let sound = file(&[(1, 2, b"hsqs and more")]);
        assert!(is_sif(&sound));
        for length in 0..sound.len() {
            assert!(root_partition(&sound[..length]).is_err(), "cut to {length} bytes");
        }
        for at in 0..sound.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut damaged = sound.clone();
                damaged[at] = byte;
                if let Ok(range) = root_partition(&damaged) {
                    assert!(range.end <= damaged.len());
                }
            }
        }
    }
}

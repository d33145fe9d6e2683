//! Headers of newc archives (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use crate::attr::{Device, FileType};

/// Size of a header in bytes.
pub const HEADER_SIZE: usize = 110;

/// Maximum length of a name with its terminating NUL: `PATH_MAX`, as in the kernel's unpacker.
pub(super) const MAX_NAME_SIZE: u32 = 4096;

/// Maximum length of a symlink's target.
pub(super) const MAX_TARGET_LEN: u32 = 4095;

/// Marker in the checksum field of the first entry, `.`, of a 070701 archive: whiteouts are
/// character devices 0:0 only, and names that begin with `.wh.` are ordinary names.
///
/// In this format, other programs write zeros to this field and do not read it. Only an archive
/// with such a name is marked, so that all others have no special bytes. (The bytes are the letters
/// `ovc1`.)
pub const WHITEOUTS_ARE_DEVICES: u32 = u32::from_be_bytes(*b"ovc1");

/// Name of the last entry.
pub const TRAILER: &[u8] = b"TRAILER!!!";

/// The fields of a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Identifies hard links, together with `dev`.
    pub ino: u32,
    /// Type and permissions, encoded as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Size of the content in bytes.
    pub size: u32,
    /// Major and minor number of the device that contained the file.
    pub dev: [u32; 2],
    /// Major and minor number of a device node.
    pub rdev: [u32; 2],
    /// Length of the name in bytes, including its terminating NUL.
    pub name_size: u32,
    /// Sum of the bytes of the content, in a 070702 archive.
    pub checksum: Option<u32>,
    /// Whether the checksum field contains [`WHITEOUTS_ARE_DEVICES`] instead.
    pub marked: bool,
}

impl Header {
    /// Parses a header and checks the range of its fields.
    pub(super) fn parse(bytes: &[u8; HEADER_SIZE]) -> Result<Self, String> {
        let header = Header::read(bytes)?;
        match header.name_size {
            1..=MAX_NAME_SIZE => Ok(header),
            size => Err(format!("a name of {size} bytes (valid: 1 to {MAX_NAME_SIZE})")),
        }
    }

    /// Parses a header without checking the values of its fields.
    ///
    /// # Errors
    /// Returns a description of the malformed field.
    pub fn read(bytes: &[u8; HEADER_SIZE]) -> Result<Self, String> {
        let checked = match &bytes[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return Err("missing header".into()),
        };
        let mut fields = [0u32; 13];
        for (number, (field, digits)) in fields.iter_mut().zip(bytes[6..].chunks(8)).enumerate() {
            *field = hexadecimal(digits)
                .ok_or_else(|| format!("field {} is not a hexadecimal number", number + 1))?;
        }
        let [ino, mode, uid, gid, nlink, mtime, size, dev0, dev1, rdev0, rdev1, name_size, sum] =
            fields;
        Ok(Header {
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            size,
            dev: [dev0, dev1],
            rdev: [rdev0, rdev1],
            name_size,
            checksum: checked.then_some(sum),
            marked: !checked && sum == WHITEOUTS_ARE_DEVICES,
        })
    }

    /// Returns the type of the object.
    ///
    /// # Errors
    /// Returns a message if the type is unknown.
    pub fn kind(&self) -> Result<FileType, String> {
        match FileType::from_mode(self.mode) {
            Some(kind) if self.mode <= 0o177777 => Ok(kind),
            _ => Err(format!("mode {:o} has an unknown type", self.mode)),
        }
    }

    /// Returns the device number of a device node; 0:0 for other types.
    pub(super) fn device(&self, kind: FileType) -> Result<Device, String> {
        let [major, minor] = self.rdev;
        if !kind.is_device() {
            Ok(Device::default())
        } else if major > 0xfff || minor > 0xf_ffff {
            Err(format!("invalid device number {major}:{minor}"))
        } else {
            Ok(Device { major, minor })
        }
    }
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits
        .iter()
        .try_fold(0, |number: u32, &digit| Some(number << 4 | char::from(digit).to_digit(16)?))
}

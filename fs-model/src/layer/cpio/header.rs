//! One header of a newc archive
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use crate::attr::{Device, FileType};

/// Bytes of a header.
pub const LENGTH: usize = 110;

/// The longest name, its final NUL included: `PATH_MAX`, as in the kernel's own unpacker.
pub(super) const NAME_LIMIT: u32 = 4096;

/// The longest target of a symlink.
pub(super) const TARGET_LIMIT: u32 = 4095;

/// What stands in the checksum field of the first entry, `.`, of a 070701 archive whose deletions
/// are character devices 0:0 and nothing else: names that begin with `.wh.` are names like any
/// others in it. Nobody else looks at that field in this format, and all write zeros there; only
/// an archive that holds such a name is marked, so that all others are as plain as can be. (The
/// letters `ovc1`.)
pub const WHITEOUTS_ARE_DEVICES: u32 = u32::from_be_bytes(*b"ovc1");

/// The name of the last entry.
pub const TRAILER: &[u8] = b"TRAILER!!!";

/// A header's fields, as they stand in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// By which links are told, with `dev`.
    pub ino: u32,
    /// Type and permissions, as `st_mode` has them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Bytes of content.
    pub size: u32,
    /// The device that it lay on, major and minor.
    pub dev: [u32; 2],
    /// The device that it is.
    pub rdev: [u32; 2],
    /// Bytes of the name, its final NUL included.
    pub name_size: u32,
    /// The sum of the content's bytes, in an archive that has it.
    pub checksum: Option<u32>,
    /// Whether the field that is for a checksum holds [`WHITEOUTS_ARE_DEVICES`] instead.
    pub marked: bool,
}

impl Header {
    /// Reads a header whose fields are within the bounds that they can have.
    pub(super) fn parse(bytes: &[u8; LENGTH]) -> Result<Self, String> {
        let header = Header::read(bytes)?;
        match header.name_size {
            1..=NAME_LIMIT => Ok(header),
            size => Err(format!("a name of {size} bytes (1 to {NAME_LIMIT} are possible)")),
        }
    }

    /// Reads a header, whatever stands in its fields.
    ///
    /// # Errors
    /// What makes it none.
    pub fn read(bytes: &[u8; LENGTH]) -> Result<Self, String> {
        let checked = match &bytes[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return Err("no header where one must be".into()),
        };
        let mut fields = [0u32; 13];
        for (number, (field, digits)) in fields.iter_mut().zip(bytes[6..].chunks(8)).enumerate() {
            *field = hexadecimal(digits)
                .ok_or_else(|| format!("field {} is no hexadecimal number", number + 1))?;
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

    /// The type of the object.
    ///
    /// # Errors
    /// When there is no such type.
    pub fn kind(&self) -> Result<FileType, String> {
        match FileType::from_mode(self.mode) {
            Some(kind) if self.mode <= 0o177777 => Ok(kind),
            _ => Err(format!("mode {:o} is of no known type", self.mode)),
        }
    }

    /// The device number of a device node, 0:0 for all else.
    pub(super) fn device(&self, kind: FileType) -> Result<Device, String> {
        let [major, minor] = self.rdev;
        if !kind.is_device() {
            Ok(Device::default())
        } else if major > 0xfff || minor > 0xf_ffff {
            Err(format!("there is no device {major}:{minor}"))
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

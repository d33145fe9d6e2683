//! One header of a newc archive
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use crate::attr::{Device, FileType};

/// Bytes of a header.
pub(super) const LENGTH: usize = 110;

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
pub(super) const TRAILER: &[u8] = b"TRAILER!!!";

/// A header's fields, each within the bounds that it can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) ino: u32,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) mtime: u32,
    pub(super) size: u32,
    pub(super) dev: [u32; 2],
    pub(super) rdev: [u32; 2],
    pub(super) name_size: u32,
    /// The sum of the content's bytes, in an archive that has it.
    pub(super) checksum: Option<u32>,
    /// Whether the field that is for a checksum holds [`WHITEOUTS_ARE_DEVICES`] instead.
    pub(super) marked: bool,
}

impl Header {
    /// Reads a header.
    pub(super) fn parse(bytes: &[u8; LENGTH]) -> Result<Self, String> {
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
        if name_size == 0 || name_size > NAME_LIMIT {
            return Err(format!("a name of {name_size} bytes (1 to {NAME_LIMIT} are possible)"));
        }
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
    pub(super) fn kind(&self) -> Result<FileType, String> {
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

//! Encodes attributes as the structures of `stat(2)` and `statx(2)`
//! (`arch/*/include/uapi/asm/stat.h`, `include/uapi/linux/stat.h`).

use nix::errno::Errno;

use super::caller::Location;
use super::calls::StatLayout;
use super::resolve::SupervisedAttributes;

const BLOCK_SIZE: u32 = 4096;
/// The basic attributes and the id of the mount.
const STATX_MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID;
const STATX_SIZE: usize = 256;
/// Attributes that the kernel reports for every file system.
const STATX_ATTRIBUTES: u64 =
    libc::STATX_ATTR_AUTOMOUNT as u64 | libc::STATX_ATTR_MOUNT_ROOT as u64;

/// An object whose attributes are requested.
pub(super) struct StatObject {
    /// The number of the tree's device.
    pub(super) device: u64,
    pub(super) place: Location,
    pub(super) attributes: SupervisedAttributes,
    pub(super) is_mount_root: bool,
}

/// Appends numbers in the byte order of the machine.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    fn u16(&mut self, number: u16) -> &mut Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    /// Appends a time with 64 bits for each part.
    fn time(&mut self, (seconds, nanoseconds): (i64, u32)) -> &mut Self {
        self.u64(seconds as u64).u64(nanoseconds.into())
    }

    /// Appends a time with 32 bits for each part, as the kernel does: larger seconds wrap.
    fn short_time(&mut self, (seconds, nanoseconds): (i64, u32)) -> &mut Self {
        self.u32(seconds as u32).u32(nanoseconds)
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

/// Returns the 32-bit form of a device number (`new_encode_dev`).
fn device_number((major, minor): (u32, u32)) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// Returns the structure of `stat(2)`.
///
/// # Errors
/// `EOVERFLOW` if a number does not fit.
pub(super) fn stat_buffer(layout: StatLayout, object: &StatObject) -> Result<Vec<u8>, Errno> {
    let SupervisedAttributes { mode, nlink, uid, gid, rdev, size, blocks, .. } = object.attributes;
    let SupervisedAttributes { atime, mtime, ctime, .. } = object.attributes;
    let (device, rdev) = (object.device, device_number(rdev));
    let mut buffer = Buffer::default();
    match layout {
        StatLayout::X86_64 => {
            buffer.u64(device).u64(object.place.ino).u64(nlink.into());
            buffer.u32(mode).u32(uid).u32(gid).u32(0).u64(rdev.into());
            buffer.u64(size).u64(BLOCK_SIZE.into()).u64(blocks);
            buffer.time(atime).time(mtime).time(ctime).zeros(24);
        }
        StatLayout::Generic => {
            buffer.u64(device).u64(object.place.ino).u32(mode).u32(nlink).u32(uid).u32(gid);
            buffer.u64(rdev.into()).u64(0).u64(size).u32(BLOCK_SIZE).u32(0).u64(blocks);
            buffer.time(atime).time(mtime).time(ctime).zeros(8);
        }
        StatLayout::I386 => {
            let short = |id: u32| u16::try_from(id).unwrap_or(65534);
            let ino = u32::try_from(object.place.ino).map_err(|_| Errno::EOVERFLOW)?;
            let size = u32::try_from(size).ok().filter(|size| *size <= i32::MAX as u32);
            let nlink = u16::try_from(nlink).map_err(|_| Errno::EOVERFLOW)?;
            buffer.u32(device as u32).u32(ino).u16(mode as u16).u16(nlink);
            buffer.u16(short(uid)).u16(short(gid)).u32(rdev);
            buffer.u32(size.ok_or(Errno::EOVERFLOW)?).u32(BLOCK_SIZE).u32(blocks as u32);
            buffer.short_time(atime).short_time(mtime).short_time(ctime).zeros(8);
        }
        StatLayout::I386Wide => {
            let ino = object.place.ino;
            buffer.u64(device).u32(0).u32(ino as u32).u32(mode).u32(nlink).u32(uid).u32(gid);
            buffer.u64(rdev.into()).u32(0).u64(size).u32(BLOCK_SIZE).u64(blocks);
            buffer.short_time(atime).short_time(mtime).short_time(ctime).u64(ino);
        }
    }
    Ok(buffer.0)
}

/// Returns the structure of `statx(2)`.
pub(super) fn statx_buffer(object: &StatObject) -> Vec<u8> {
    let SupervisedAttributes { mode, nlink, uid, gid, rdev, size, blocks, .. } = object.attributes;
    let SupervisedAttributes { atime, mtime, ctime, .. } = object.attributes;
    let root = libc::STATX_ATTR_MOUNT_ROOT as u64;
    let mut buffer = Buffer::default();
    buffer.u32(STATX_MASK).u32(BLOCK_SIZE).u64(if object.is_mount_root { root } else { 0 });
    buffer.u32(nlink).u32(uid).u32(gid).u16(mode as u16).u16(0);
    buffer.u64(object.place.ino).u64(size).u64(blocks).u64(STATX_ATTRIBUTES);
    // FUSE has no times of creation.
    for time in [atime, (0, 0), ctime, mtime] {
        buffer.u64(time.0 as u64).u32(time.1).u32(0);
    }
    buffer.u32(rdev.0).u32(rdev.1);
    buffer.u32(libc::major(object.device)).u32(libc::minor(object.device));
    buffer.u64(object.place.mount);
    let rest = STATX_SIZE - buffer.0.len();
    buffer.zeros(rest);
    buffer.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> StatObject {
        let attributes = SupervisedAttributes {
            mode: libc::S_IFCHR | 0o4711,
            nlink: 3,
            uid: 70_000,
            gid: 8,
            rdev: (259, 300),
            size: 5,
            blocks: 8,
            atime: (1, 2),
            mtime: (3, 4),
            ctime: (5, 6),
        };
        let place = Location { mount: 9, ino: 0x1_0000_0007 };
        StatObject { device: libc::makedev(0, 50), place, attributes, is_mount_root: true }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn structures_are_those_of_the_c_library() {
        let bytes = stat_buffer(StatLayout::X86_64, &object()).unwrap();
        assert_eq!(bytes.len(), size_of::<libc::stat>());
        // SAFETY: the buffer has the size of the structure, in which every value is valid.
        let stat: libc::stat = unsafe { bytes.as_ptr().cast::<libc::stat>().read_unaligned() };
        let times = [stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec];
        assert_eq!(times, [1, 2, 3, 4]);
        assert_eq!((stat.st_ctime, stat.st_ctime_nsec, stat.st_nlink), (5, 6, 3));
        assert_eq!((stat.st_dev, stat.st_ino), (libc::makedev(0, 50), 0x1_0000_0007));
        assert_eq!((stat.st_mode, stat.st_uid, stat.st_gid), (libc::S_IFCHR | 0o4711, 70_000, 8));
        assert_eq!(stat.st_rdev, libc::makedev(259, 300));
        assert_eq!((stat.st_size, stat.st_blksize, stat.st_blocks), (5, 4096, 8));

        let bytes = statx_buffer(&object());
        assert_eq!(bytes.len(), size_of::<libc::statx>());
        // SAFETY: as above.
        let statx: libc::statx = unsafe { bytes.as_ptr().cast::<libc::statx>().read_unaligned() };
        assert_eq!((statx.stx_uid, statx.stx_gid, statx.stx_nlink), (70_000, 8, 3));
        assert_eq!(u32::from(statx.stx_mode), libc::S_IFCHR | 0o4711);
        assert_eq!((statx.stx_ino, statx.stx_size, statx.stx_blocks), (0x1_0000_0007, 5, 8));
        assert_eq!((statx.stx_atime.tv_sec, statx.stx_mtime.tv_nsec), (1, 4));
        assert_eq!((statx.stx_ctime.tv_sec, statx.stx_ctime.tv_nsec), (5, 6));
        assert_eq!((statx.stx_rdev_major, statx.stx_rdev_minor), (259, 300));
        assert_eq!((statx.stx_dev_major, statx.stx_dev_minor, statx.stx_mnt_id), (0, 50, 9));
        assert_eq!(statx.stx_attributes, libc::STATX_ATTR_MOUNT_ROOT as u64);
    }

    #[test]
    fn other_layouts_have_their_size() {
        let mut object = object();
        assert_eq!(stat_buffer(StatLayout::Generic, &object).unwrap().len(), 128);
        assert_eq!(stat_buffer(StatLayout::I386Wide, &object).unwrap().len(), 96);
        assert_eq!(stat_buffer(StatLayout::I386, &object), Err(Errno::EOVERFLOW));
        object.place.ino = 7;
        assert_eq!(stat_buffer(StatLayout::I386, &object).unwrap().len(), 64);
    }
}

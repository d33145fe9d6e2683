//! Attributes of file system objects: type, mode, owner, device and times.

/// The type of an object (`S_IFMT`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
}

impl FileType {
    /// Returns the `S_IFMT` bits of `st_mode` for this type: the Linux values of POSIX
    /// `<sys/stat.h>`, which newc cpio, tar and squashfs use too.
    pub const fn mode_bits(self) -> u32 {
        match self {
            FileType::Fifo => 0o010000,
            FileType::CharDevice => 0o020000,
            FileType::Directory => 0o040000,
            FileType::BlockDevice => 0o060000,
            FileType::Regular => 0o100000,
            FileType::Symlink => 0o120000,
            FileType::Socket => 0o140000,
        }
    }

    /// Returns the type in the `S_IFMT` bits of `mode`; `None` if they are not valid.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170000 {
            0o010000 => FileType::Fifo,
            0o020000 => FileType::CharDevice,
            0o040000 => FileType::Directory,
            0o060000 => FileType::BlockDevice,
            0o100000 => FileType::Regular,
            0o120000 => FileType::Symlink,
            0o140000 => FileType::Socket,
            _ => return None,
        })
    }

    /// Returns whether objects of this type have a device number.
    pub const fn is_device(self) -> bool {
        matches!(self, FileType::CharDevice | FileType::BlockDevice)
    }
}

/// A device number. On Linux the major number has 12 bits and the minor number 20.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// The major number, which selects the driver.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
}

impl Device {
    /// Decodes the 32-bit encoding of the kernel's ABI (`new_encode_dev`), which FUSE's `rdev` and
    /// the device inodes of squashfs use.
    pub const fn from_u32(dev: u32) -> Self {
        Device { major: (dev >> 8) & 0xfff, minor: (dev & 0xff) | ((dev >> 12) & 0xfff00) }
    }

    /// Returns the 32-bit encoding of the kernel's ABI (`new_encode_dev`).
    pub const fn to_u32(self) -> u32 {
        (self.minor & 0xff) | ((self.major & 0xfff) << 8) | ((self.minor & 0xfff00) << 12)
    }
}

/// A point in time: seconds since 1970 (negative before) and nanoseconds within the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// Creates a time of a whole second.
    pub const fn from_secs(secs: i64) -> Self {
        Time { secs, nanos: 0 }
    }

    /// Returns the time of the system clock.
    pub fn now() -> Self {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(d) => Time { secs: d.as_secs() as i64, nanos: d.subsec_nanos() },
            Err(e) => {
                let d = e.duration();
                let nanos = d.subsec_nanos();
                if nanos == 0 {
                    Time { secs: -(d.as_secs() as i64), nanos: 0 }
                } else {
                    Time { secs: -(d.as_secs() as i64) - 1, nanos: 1_000_000_000 - nanos }
                }
            }
        }
    }
}

/// The attributes of an object in a tree or a layer. They are always the true ones, regardless of
/// the privilege at which the tree is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The object's type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky: at most `0o7777`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file; length of a symlink's target; 0 for devices, pipes and sockets. For
    /// a directory, a layer may report the stored size; a tree reports 4096.
    pub size: u64,
    /// Bytes of memory or of the image used by the content, as far as known.
    pub allocated: u64,
    /// The device number of a device node; otherwise 0:0.
    pub rdev: Device,
    /// Number of names; for a directory, 2 plus the number of subdirectories. A layer that does not
    /// count subdirectories reports less than 2.
    pub nlink: u32,
    /// Time of the last access.
    pub atime: Time,
    /// Time of the last change of the content.
    pub mtime: Time,
    /// Time of the last change of the attributes.
    pub ctime: Time,
}

impl Attr {
    /// Creates the attributes of an empty object owned by root, without a name, with all times set
    /// to `time`.
    pub const fn new(kind: FileType, mode: u16, time: Time) -> Self {
        Attr {
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            allocated: 0,
            rdev: Device { major: 0, minor: 0 },
            nlink: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    /// Returns `st_mode`: type and permission bits.
    pub const fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode as u32
    }
}

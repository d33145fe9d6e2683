//! What every object of a file system has: its type, mode, owner, device and times.

/// The type of an object, as `S_IFMT` has it.
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
    /// The `S_IFMT` bits of `st_mode` for this type (POSIX `<sys/stat.h>`, the Linux values,
    /// which newc cpio, tar and squashfs use too).
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

    /// The type in the `S_IFMT` bits of `mode`; `None` for bits that name no type.
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

    /// Whether objects of this type have a device number.
    pub const fn is_device(self) -> bool {
        matches!(self, FileType::CharDevice | FileType::BlockDevice)
    }
}

/// A device number. Linux has 12 bits of major and 20 bits of minor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

impl Device {
    /// From the 32-bit encoding that the kernel uses between file systems and user space
    /// (`new_encode_dev`; FUSE's `rdev` and squashfs's device inodes carry it).
    pub const fn from_u32(dev: u32) -> Self {
        Device { major: (dev >> 8) & 0xfff, minor: (dev & 0xff) | ((dev >> 12) & 0xfff00) }
    }

    /// The kernel's 32-bit encoding (`new_encode_dev`).
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
    /// A whole second.
    pub const fn from_secs(secs: i64) -> Self {
        Time { secs, nanos: 0 }
    }

    /// The system clock.
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

/// The attributes of an object as a tree or a layer knows them: always the true ones, whatever
/// the privilege at which the tree is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The object's type.
    pub kind: FileType,
    /// Permission bits with setuid, setgid and sticky: `0o7777` at the most.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file; length of a symlink's target. Of a directory, a layer may report
    /// what is stored of it, and a tree says 4096; of the rest, 0.
    pub size: u64,
    /// Bytes of memory or of the image that the content takes, as far as known.
    pub allocated: u64,
    /// The device number of a device node, else 0:0.
    pub rdev: Device,
    /// How many names the object has. Of a directory, 2 and the number of its subdirectories; a
    /// layer that has not counted them says less than 2.
    pub nlink: u32,
    /// Time of the last access.
    pub atime: Time,
    /// Time of the last change of the content.
    pub mtime: Time,
    /// Time of the last change of the attributes.
    pub ctime: Time,
}

impl Attr {
    /// Those of an empty object of root's without a name, all of whose times are `time`.
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

    /// `st_mode`: type and permissions.
    pub const fn st_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode as u32
    }
}

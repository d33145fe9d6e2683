//! The errno of each error of a tree.

use fs_model::FsError;
use fuser::Errno;

/// Returns the errno that a program sees for `error`.
pub(crate) fn errno_of(error: &FsError) -> Errno {
    match error {
        FsError::NotFound => Errno::ENOENT,
        FsError::Exists => Errno::EEXIST,
        FsError::NotADirectory => Errno::ENOTDIR,
        FsError::IsADirectory => Errno::EISDIR,
        FsError::NotEmpty => Errno::ENOTEMPTY,
        FsError::Invalid => Errno::EINVAL,
        FsError::NotPermitted => Errno::EPERM,
        FsError::Busy => Errno::EBUSY,
        FsError::NameTooLong | FsError::PathTooLong { .. } => Errno::ENAMETOOLONG,
        FsError::TooManyLinks => Errno::EMLINK,
        FsError::FileTooLarge => Errno::EFBIG,
        FsError::NoSpace { .. } => Errno::ENOSPC,
        FsError::NoData => Errno::ENODATA,
        FsError::NotSupported => Errno::EOPNOTSUPP,
        FsError::Loop => Errno::ELOOP,
        FsError::NoSuchOffset => Errno::ENXIO,
        FsError::ReadOnly => Errno::EROFS,
        FsError::Stale => Errno::ESTALE,
        FsError::Interrupted => Errno::EINTR,
        FsError::Layer(_) => Errno::EIO,
    }
}

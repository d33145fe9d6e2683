//! Error types: [`FsError`] for operations on a tree, with one variant for each errno, and
//! [`LayerError`] for a layer that cannot be read, which names the image.

use std::sync::Arc;

/// An error while reading a layer.
///
/// Cheap to clone, so that the error for a damaged block can be cached and returned for every read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{image}: {kind}")]
pub struct LayerError {
    /// The image, archive or directory, as named by the caller.
    pub image: Arc<str>,
    /// The kind of the error.
    pub kind: LayerErrorKind,
}

/// The kind of a [`LayerError`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum LayerErrorKind {
    /// The data is not in the expected format at all.
    #[error("not {expected}")]
    NotThisFormat {
        /// The expected format with its article: "a squashfs image".
        expected: &'static str,
    },
    /// The data is in the expected format, but damaged or truncated.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// The image uses a feature that this crate does not support.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// An I/O error.
    #[error("cannot be read: {0}")]
    Io(Arc<std::io::Error>),
}

impl LayerError {
    /// Returns an error for a damaged image.
    pub fn corrupt(image: &Arc<str>, what: impl Into<String>) -> Self {
        LayerError { image: image.clone(), kind: LayerErrorKind::Corrupt(what.into()) }
    }

    /// Returns an error for an unsupported feature.
    pub fn unsupported(image: &Arc<str>, what: impl Into<String>) -> Self {
        LayerError { image: image.clone(), kind: LayerErrorKind::Unsupported(what.into()) }
    }

    /// Returns an error for a failed read.
    pub fn io(image: &Arc<str>, error: std::io::Error) -> Self {
        LayerError { image: image.clone(), kind: LayerErrorKind::Io(Arc::new(error)) }
    }
}

/// An error of an operation on a tree. Each variant corresponds to one errno.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FsError {
    /// `ENOENT`
    #[error("no such file or directory")]
    NotFound,
    /// `EEXIST`
    #[error("already exists")]
    Exists,
    /// `ENOTDIR`
    #[error("not a directory")]
    NotADirectory,
    /// `EISDIR`
    #[error("is a directory")]
    IsADirectory,
    /// `ENOTEMPTY`
    #[error("directory not empty")]
    NotEmpty,
    /// `EINVAL`
    #[error("invalid argument")]
    Invalid,
    /// `EPERM`
    #[error("operation not permitted")]
    NotPermitted,
    /// `EBUSY`: a scratch entry, a lent file or a moved directory is in the way.
    #[error("in use")]
    Busy,
    /// `ENAMETOOLONG`
    #[error("name too long")]
    NameTooLong,
    /// `ENAMETOOLONG`, for a whole path: archive readers accept at most 4095 bytes.
    #[error(
        "/{}: the path has {} bytes, more than the maximum of 4095",
        shorten(&String::from_utf8_lossy(path)),
        path.len()
    )]
    PathTooLong {
        /// The path, from the root.
        path: Box<[u8]>,
    },
    /// `EMLINK`
    #[error("too many links")]
    TooManyLinks,
    /// `EFBIG`
    #[error("file too large")]
    FileTooLarge,
    /// `ENOSPC`: the size limit of the upper is reached.
    #[error("the upper layer is full (limit: {limit} bytes)")]
    NoSpace {
        /// The limit, in bytes.
        limit: u64,
    },
    /// `ENODATA`: no such extended attribute.
    #[error("no such attribute")]
    NoData,
    /// `EOPNOTSUPP`
    #[error("not supported")]
    NotSupported,
    /// `ELOOP`
    #[error("too many levels of symbolic links")]
    Loop,
    /// `ENXIO`: no data or hole at or after an offset.
    #[error("no such offset")]
    NoSuchOffset,
    /// `EROFS`: the tree has no upper.
    #[error("read-only file system")]
    ReadOnly,
    /// `ESTALE`: an inode number that this tree never returned, or that was forgotten.
    #[error("stale inode number")]
    Stale,
    /// `EINTR`: the caller no longer waits for the result.
    #[error("interrupted")]
    Interrupted,
    /// `EIO`: a layer cannot be read.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// Returns `path` for use in a message: a very long path is reduced to its start and end.
pub fn shorten(path: &str) -> std::borrow::Cow<'_, str> {
    const SHOWN: usize = 120;
    if path.len() <= 2 * SHOWN {
        return path.into();
    }
    let (head, tail) = (path.floor_char_boundary(SHOWN), path.len() - SHOWN);
    let tail = path.ceil_char_boundary(tail);
    format!("{}…{}", &path[..head], &path[tail..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_shortened_in_the_middle() {
        assert_eq!(shorten("etc/hostname"), "etc/hostname");
        let path = format!("first/{}/last", "\u{e9}/".repeat(1000));
        let shown = shorten(&path);
        assert!(shown.len() < 250 && shown.starts_with("first/") && shown.ends_with("/last"));
        let error = FsError::PathTooLong { path: path.as_bytes().into() };
        assert!(error.to_string().contains("the path has 3011 bytes"), "{error}");
    }
}

//! What can go wrong. A tree's errors are the file system's own ([`FsError`], one for each errno
//! that a caller may have to see); a layer's errors ([`LayerError`]) say which image is at fault.

use std::sync::Arc;

/// A layer that cannot be read.
///
/// Cheap to clone, so that a damaged block can be remembered and reported each time it is asked
/// for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{image}: {kind}")]
pub struct LayerError {
    /// The image, archive or directory, as the user named it.
    pub image: Arc<str>,
    /// What is wrong with it.
    pub kind: LayerErrorKind,
}

/// What is wrong with a layer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LayerErrorKind {
    /// The image is not of this format at all.
    #[error("not {expected}")]
    NotThisFormat {
        /// What was expected, with its article: "a squashfs image".
        expected: &'static str,
    },
    /// The image is of this format, but damaged or cut off.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// The image uses something that this program does not read.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// Reading the image failed.
    #[error("cannot be read: {0}")]
    Io(#[source] Arc<std::io::Error>),
}

impl LayerError {
    /// A damaged image.
    pub fn corrupt(image: &Arc<str>, what: impl Into<String>) -> Self {
        LayerError { image: image.clone(), kind: LayerErrorKind::Corrupt(what.into()) }
    }

    /// An image with a feature that is not read here.
    pub fn unsupported(image: &Arc<str>, what: impl Into<String>) -> Self {
        LayerError { image: image.clone(), kind: LayerErrorKind::Unsupported(what.into()) }
    }

    /// An image that the system could not read.
    pub fn io(image: &Arc<str>, error: std::io::Error) -> Self {
        LayerError { image: image.clone(), kind: LayerErrorKind::Io(Arc::new(error)) }
    }
}

/// Why an operation on a tree was refused. Each variant is one errno.
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
    /// `EBUSY`
    #[error("in use by overcoat itself")]
    Busy,
    /// `ENAMETOOLONG`
    #[error("name too long")]
    NameTooLong,
    /// `ENAMETOOLONG`, for a whole path: the changes hold one that no archive can.
    #[error(
        "/{}: the path has {} bytes, and what unpacks an archive takes 4095 at most; give a \
         directory on the way a shorter name, move it up, or remove it",
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
    /// `ENOSPC`: the upper's size limit is reached.
    #[error("the upper layer is full ({limit} bytes); give it more with --upper-size")]
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
    /// `ELOOP`: too many symbolic links on the way.
    #[error("too many levels of symbolic links")]
    Loop,
    /// `ENXIO`: no data or hole at or after an offset.
    #[error("no such offset")]
    NoSuchOffset,
    /// `EROFS`: the tree has no upper.
    #[error("read-only file system")]
    ReadOnly,
    /// `ESTALE`: an inode number that this tree never gave out, or that was forgotten.
    #[error("stale inode number")]
    Stale,
    /// `EINTR`: nobody waits for the answer any more.
    #[error("interrupted")]
    Interrupted,
    /// `EIO`: a layer is damaged.
    #[error(transparent)]
    Layer(#[from] LayerError),
}

/// `path` as a message can show it: of a very long one, the beginning and the end.
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
    fn a_long_path_is_shown_by_its_beginning_and_end() {
        assert_eq!(shorten("etc/hostname"), "etc/hostname");
        let path = format!("first/{}/last", "\u{e9}/".repeat(1000));
        let shown = shorten(&path);
        assert!(shown.len() < 250 && shown.starts_with("first/") && shown.ends_with("/last"));
        let error = FsError::PathTooLong { path: path.as_bytes().into() };
        assert!(error.to_string().contains("the path has 3011 bytes"), "{error}");
    }
}

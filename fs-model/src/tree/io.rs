//! Reading and writing files, and reading symbolic links.

use std::ops::Range;
use std::sync::Arc;

use super::content::MAX_FILE_SIZE;
use super::inode::{UpperData, UpperInode};
use super::lent::ContentFrom;
use super::{Ino, Tree, lower_inode};
use crate::acl::{self, Acl};
use crate::attr::{FileType, Time};
use crate::delta::Contents;
use crate::error::FsError;
use crate::layer::{Readahead, Xattr};
use crate::stack::LowerInode;

/// Buffer size for copies within the tree, in bytes.
const COPY_BUFFER: usize = 256 << 10;

/// A range of a layer that will probably be read next.
#[derive(Clone, Debug)]
pub struct TreeReadahead {
    lower: LowerInode,
    range: Readahead,
}

enum Readable {
    Upper(Arc<UpperInode>),
    Lower(LowerInode),
}

impl Tree {
    fn readable(&self, ino: Ino) -> Result<Readable, FsError> {
        let state = self.state.lock();
        let ino = state.current(ino);
        if let Some(inode) = state.inodes.get(&ino) {
            return Ok(Readable::Upper(inode.clone()));
        }
        // The root's number does not encode an inode of a layer.
        let dir = state.dirs.get(&ino).and_then(|d| d.sources.first().copied());
        dir.map_or_else(|| lower_inode(&self.stack, ino), Ok).map(Readable::Lower)
    }

    /// Reads bytes of a file from `offset` into `buf`. Returns their number, which is less than
    /// `buf.len()` only at the end of the file.
    ///
    /// # Errors
    /// [`FsError::IsADirectory`] or [`FsError::Invalid`] for other objects than regular files;
    /// [`FsError::Stale`] or [`FsError::Layer`].
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        match self.readable(ino)? {
            Readable::Upper(inode) => match &inode.body.read().data {
                UpperData::File(content) => content.read(&self.stack, offset, buf),
                _ => Err(wrong_type(inode.kind)),
            },
            Readable::Lower(source) => match self.stack.read_at(source, offset, buf) {
                // Layers need not check the type.
                Ok(0) | Err(_) if self.stack.attr(source)?.kind != FileType::Regular => {
                    Err(wrong_type(self.stack.attr(source)?.kind))
                }
                result => Ok(result?),
            },
        }
    }

    /// Returns whether reading this range needs no decoding, so that it can be answered without
    /// delay.
    pub fn is_cached(&self, ino: Ino, offset: u64, len: usize) -> bool {
        match self.readable(ino) {
            Ok(Readable::Upper(inode)) => match &inode.body.read().data {
                UpperData::File(content) => content.is_cached(&self.stack, offset, len),
                _ => true,
            },
            Ok(Readable::Lower(source)) => self.stack.is_cached(source, offset, len),
            Err(_) => true,
        }
    }

    /// Returns the range to decode in advance, if any, when these bytes of `ino` are read.
    pub fn readahead(&self, ino: Ino, offset: u64, len: usize) -> Option<TreeReadahead> {
        let Ok(Readable::Lower(source)) = self.readable(ino) else { return None };
        self.stack
            .readahead(source, offset, len)
            .map(|range| TreeReadahead { lower: source, range })
    }

    /// Decodes a range into the layer's cache. Meant for an idle thread.
    pub fn prefetch(&self, next: TreeReadahead) {
        self.stack.prefetch(next.lower, next.range);
    }

    /// Writes `data` at `offset`. Returns the number of bytes written, which is less than
    /// `data.len()` when the upper becomes full.
    ///
    /// # Errors
    /// [`FsError::NoSpace`] if nothing could be written, [`FsError::FileTooLarge`],
    /// [`FsError::ReadOnly`], [`FsError::IsADirectory`] or [`FsError::Invalid`] for objects other
    /// than regular files, [`FsError::Stale`] or [`FsError::Layer`].
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize, FsError> {
        self.change_content(ino, ContentFrom::Lent, |content, tree| {
            content.write(&tree.stack, &tree.space, offset, data)
        })
    }

    /// Appends `data` at the current end of the file. Returns the number of bytes written.
    ///
    /// # Errors
    /// See [`Tree::write`].
    pub fn append(&self, ino: Ino, data: &[u8]) -> Result<usize, FsError> {
        self.change_content(ino, ContentFrom::Covered, |content, tree| {
            content.write(&tree.stack, &tree.space, content.size(), data)
        })
    }

    /// Zeroes the bytes of `range` and releases their memory. The size does not change, unless
    /// `grow` is set and the range ends beyond it.
    ///
    /// # Errors
    /// See [`Tree::write`].
    pub fn zero(&self, ino: Ino, range: Range<u64>, grow: bool) -> Result<(), FsError> {
        if range.end > MAX_FILE_SIZE {
            return Err(FsError::FileTooLarge);
        }
        self.change_content(ino, ContentFrom::Covered, |content, tree| {
            content.punch(&tree.stack, &tree.space, range.clone())?;
            if grow && range.end > content.size() {
                content.truncate(&tree.space, range.end)?;
            }
            Ok(())
        })
    }

    /// Makes the file at least `end` bytes long, without allocating memory.
    ///
    /// # Errors
    /// See [`Tree::write`].
    pub fn extend(&self, ino: Ino, end: u64) -> Result<(), FsError> {
        self.change_content(ino, ContentFrom::Covered, |content, tree| {
            if end > content.size() { content.truncate(&tree.space, end) } else { Ok(()) }
        })
    }

    fn change_content<T>(
        &self,
        ino: Ino,
        content_from: ContentFrom,
        change: impl FnOnce(&mut super::content::FileContent, &Tree) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let inode = {
            let mut state = self.state.lock();
            let ino = state.current(ino);
            state.take_over(self, ino, content_from)?;
            match state.kind(&self.stack, ino)? {
                FileType::Regular => state.upper_inode(self, ino)?,
                kind => return Err(wrong_type(kind)),
            }
        };
        let mut body = inode.body.write();
        let now = Time::now();
        // The inode was forgotten in the meantime and has no content.
        let UpperData::File(content) = &mut body.data else { return Err(FsError::Stale) };
        let done = change(content, self)?;
        body.mtime = now;
        body.ctime = now;
        Ok(done)
    }

    /// Copies up to `len` bytes from one file to another, or within one. Returns the number of
    /// bytes copied.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for overlapping ranges of one file, and those of [`Tree::read`] and
    /// [`Tree::write`].
    pub fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        let (from, to) = {
            let state = self.state.lock();
            (state.current(from), state.current(to))
        };
        let apart = from_offset.abs_diff(to_offset);
        if from == to && apart < len {
            return Err(FsError::Invalid);
        }
        let mut len = len;
        if from == to && len > 0 {
            self.state.lock().take_over(self, to, ContentFrom::Covered)?;
            // Limit the copy to the present size, so that it does not read its own output.
            let attr = self.attr(from)?;
            if attr.kind != FileType::Regular {
                return Err(wrong_type(attr.kind));
            }
            len = len.min(attr.size.saturating_sub(from_offset));
        }
        let mut buf = vec![0; COPY_BUFFER.min(usize::try_from(len).unwrap_or(COPY_BUFFER))];
        let mut done = 0;
        while done < len {
            let part = (len - done).min(buf.len() as u64) as usize;
            let read = self.read(from, from_offset.saturating_add(done), &mut buf[..part])?;
            if read == 0 {
                break;
            }
            let written = match self.write(to, to_offset.saturating_add(done), &buf[..read]) {
                Ok(n) => n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            };
            done += written as u64;
            if written < read {
                break;
            }
        }
        Ok(done)
    }

    /// Returns the next data at or after `offset`; `None` if only a hole follows.
    ///
    /// # Errors
    /// [`FsError::NoSuchOffset`] at or beyond the end of the file, and those of [`Tree::read`].
    pub fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<Range<u64>>, FsError> {
        match self.readable(ino)? {
            Readable::Upper(inode) => match &inode.body.read().data {
                UpperData::File(content) if offset < content.size() => {
                    content.next_data(&self.stack, offset)
                }
                UpperData::File(_) => Err(FsError::NoSuchOffset),
                _ => Err(wrong_type(inode.kind)),
            },
            Readable::Lower(source) => {
                let attr = self.stack.attr(source)?;
                match attr.kind {
                    FileType::Regular if offset >= attr.size => Err(FsError::NoSuchOffset),
                    FileType::Regular => Ok(self.stack.next_data(source, offset)?),
                    kind => Err(wrong_type(kind)),
                }
            }
        }
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for other objects, [`FsError::Stale`] or [`FsError::Layer`].
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match self.readable(ino)? {
            Readable::Upper(inode) => match &inode.body.read().data {
                UpperData::Symlink(target) => Ok(target.to_vec()),
                _ => Err(FsError::Invalid),
            },
            Readable::Lower(source) => match self.stack.attr(source)?.kind {
                FileType::Symlink => Ok(self.stack.read_link(source)?),
                _ => Err(FsError::Invalid),
            },
        }
    }
}

fn wrong_type(kind: FileType) -> FsError {
    match kind {
        FileType::Directory => FsError::IsADirectory,
        _ => FsError::Invalid,
    }
}

impl Contents for Tree {
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        Tree::read(self, ino, offset, buf)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<Range<u64>>, FsError> {
        match Tree::next_data(self, ino, offset) {
            Err(FsError::NoSuchOffset) => Ok(None),
            result => result,
        }
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        Tree::read_link(self, ino)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        self.stored_xattrs(ino)
    }

    fn access_list(&self, ino: Ino) -> Result<Option<Acl>, FsError> {
        self.stored_acl(ino, acl::ACCESS)
    }
}

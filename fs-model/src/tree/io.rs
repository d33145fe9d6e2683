//! Reading and writing files, and reading links.

use std::ops::Range;
use std::sync::Arc;

use super::content::MAX_SIZE;
use super::inode::{Data, Inode};
use super::lent::Keep;
use super::{Ino, Tree, pristine_source};
use crate::acl::{self, Acl};
use crate::attr::{FileType, Time};
use crate::delta::Contents;
use crate::error::FsError;
use crate::layer::{Ahead, Xattr};
use crate::stack::Source;

/// Bytes that a copy within the tree moves at a time.
const COPY_BUFFER: usize = 256 << 10;

/// Something of a layer that will probably be read next.
#[derive(Clone, Debug)]
pub struct NextRead {
    source: Source,
    ahead: Ahead,
}

enum Readable {
    Upper(Arc<Inode>),
    Pristine(Source),
}

impl Tree {
    fn readable(&self, ino: Ino) -> Result<Readable, FsError> {
        let state = self.state.lock();
        if let Some(inode) = state.inodes.get(&ino) {
            return Ok(Readable::Upper(inode.clone()));
        }
        // The root's number is its own.
        let dir = state.dirs.get(&ino).and_then(|d| d.sources.first().copied());
        dir.map_or_else(|| pristine_source(&self.stack, ino), Ok).map(Readable::Pristine)
    }

    /// Fills `buf` with the file's bytes from `offset` on; fewer only at the end of the file.
    pub fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        match self.readable(ino)? {
            Readable::Upper(inode) => match &inode.body.read().data {
                Data::File(content) => content.read(&self.stack, offset, buf),
                _ => Err(wrong_type(inode.kind)),
            },
            Readable::Pristine(source) => match self.stack.read_at(source, offset, buf) {
                // A layer need not know what can be read at all.
                Ok(0) | Err(_) if self.stack.attr(source)?.kind != FileType::Regular => {
                    Err(wrong_type(self.stack.attr(source)?.kind))
                }
                result => Ok(result?),
            },
        }
    }

    /// Whether reading this range needs no decoding, so that it may be answered at once.
    pub fn is_cached(&self, ino: Ino, offset: u64, len: usize) -> bool {
        match self.readable(ino) {
            Ok(Readable::Upper(inode)) => match &inode.body.read().data {
                Data::File(content) => content.is_cached(&self.stack, offset, len),
                _ => true,
            },
            Ok(Readable::Pristine(source)) => self.stack.is_cached(source, offset, len),
            Err(_) => true,
        }
    }

    /// What would be worth decoding before it is asked for, now that these bytes of `ino` are being
    /// read.
    pub fn ahead(&self, ino: Ino, offset: u64, len: usize) -> Option<NextRead> {
        let Ok(Readable::Pristine(source)) = self.readable(ino) else { return None };
        self.stack.ahead(source, offset, len).map(|ahead| NextRead { source, ahead })
    }

    /// Decodes it, into the layer's cache: for a thread that has nothing better to do.
    pub fn decode_ahead(&self, next: NextRead) {
        self.stack.decode_ahead(next.source, next.ahead);
    }

    /// Writes `data` at `offset`. Returns how much was written, which is less than all of it when
    /// the upper is full.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize, FsError> {
        self.change_content(ino, Keep::Lent, |content, tree| {
            content.write(&tree.stack, &tree.space, offset, data)
        })
    }

    /// Appends `data` at the end of the file, wherever that is by now.
    pub fn append(&self, ino: Ino, data: &[u8]) -> Result<usize, FsError> {
        self.change_content(ino, Keep::Own, |content, tree| {
            content.write(&tree.stack, &tree.space, content.size(), data)
        })
    }

    /// Makes the bytes of `range` zero and gives their memory back. The size stays, unless `grow`
    /// is set and the range ends behind it.
    pub fn zero(&self, ino: Ino, range: Range<u64>, grow: bool) -> Result<(), FsError> {
        if range.end > MAX_SIZE {
            return Err(FsError::FileTooLarge);
        }
        self.change_content(ino, Keep::Own, |content, tree| {
            content.punch(&tree.stack, &tree.space, range.clone())?;
            if grow && range.end > content.size() {
                content.truncate(&tree.space, range.end)?;
            }
            Ok(())
        })
    }

    /// Makes the file at least `end` bytes long. Memory is taken when it is written to, not now.
    pub fn extend(&self, ino: Ino, end: u64) -> Result<(), FsError> {
        self.change_content(ino, Keep::Own, |content, tree| {
            if end > content.size() { content.truncate(&tree.space, end) } else { Ok(()) }
        })
    }

    fn change_content<T>(
        &self,
        ino: Ino,
        keep: Keep,
        change: impl FnOnce(&mut super::content::Content, &Tree) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let inode = {
            let mut state = self.state.lock();
            state.take_over(self, ino, keep)?;
            match state.kind(&self.stack, ino)? {
                FileType::Regular => state.upper(self, ino)?,
                kind => return Err(wrong_type(kind)),
            }
        };
        let mut body = inode.body.write();
        let now = Time::now();
        // Without content it was forgotten meanwhile.
        let Data::File(content) = &mut body.data else { return Err(FsError::Stale) };
        let done = change(content, self)?;
        body.mtime = now;
        body.ctime = now;
        Ok(done)
    }

    /// Copies up to `len` bytes from one file to another (or within one). Returns how many.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for ranges of one file that overlap.
    pub fn copy_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        let apart = from_offset.abs_diff(to_offset);
        if from == to && apart < len {
            return Err(FsError::Invalid);
        }
        let mut len = len;
        if from == to && len > 0 {
            self.state.lock().take_over(self, to, Keep::Own)?;
            // What is there when it begins: not what it appends to the same file itself.
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

    /// The next data at or after `offset`; `None` when only a hole follows.
    ///
    /// # Errors
    /// [`FsError::NoSuchOffset`] at or behind the end of the file.
    pub fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<Range<u64>>, FsError> {
        match self.readable(ino)? {
            Readable::Upper(inode) => match &inode.body.read().data {
                Data::File(content) if offset < content.size() => {
                    content.next_data(&self.stack, offset)
                }
                Data::File(_) => Err(FsError::NoSuchOffset),
                _ => Err(wrong_type(inode.kind)),
            },
            Readable::Pristine(source) => {
                let attr = self.stack.attr(source)?;
                match attr.kind {
                    FileType::Regular if offset >= attr.size => Err(FsError::NoSuchOffset),
                    FileType::Regular => Ok(self.stack.next_data(source, offset)?),
                    kind => Err(wrong_type(kind)),
                }
            }
        }
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        match self.readable(ino)? {
            Readable::Upper(inode) => match &inode.body.read().data {
                Data::Target(target) => Ok(target.to_vec()),
                _ => Err(FsError::Invalid),
            },
            Readable::Pristine(source) => match self.stack.attr(source)?.kind {
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

//! Copies the merged root of layers into a tree.
//!
//! Keeps everything that the tree supports: types, owners, modes, times, devices, hard links,
//! holes, and extended attributes if the output can hold them.

use std::collections::HashMap;

use fs_model::tree::{MknodArgs, SetAttr, XattrFlags};
use fs_model::{Attr, FileType, FsError, Ino, Tree};

use super::{COPY_BUFFER_BYTES, RootImportError, at, check_path_length};

/// Copies `from` into `to`, without paths that satisfy `skip`.
pub(super) fn tree(
    from: &Tree,
    to: &Tree,
    skip: &dyn Fn(&[u8]) -> bool,
) -> Result<(), RootImportError> {
    let mut copy =
        Copy { from, to, skip, made: HashMap::new(), buffer: vec![0; COPY_BUFFER_BYTES] };
    let root = from.attr(Ino::ROOT).map_err(RootImportError::Damaged)?;
    copy.directory(&mut Vec::new(), Ino::ROOT, Ino::ROOT)?;
    copy.attributes(b"", Ino::ROOT, Ino::ROOT, &root)
}

struct Copy<'a> {
    from: &'a Tree,
    to: &'a Tree,
    skip: &'a dyn Fn(&[u8]) -> bool,
    /// Copies of inodes with several names, by inode in `from`. Each holds a reference in `to`.
    made: HashMap<Ino, Ino>,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    /// Copies the entries of a directory. `path` is its path, and is restored afterwards.
    fn directory(
        &mut self,
        path: &mut Vec<u8>,
        there: Ino,
        here: Ino,
    ) -> Result<(), RootImportError> {
        let mut names = Vec::new();
        let listed = self.from.read_dir(there, 0, |item| {
            if item.name != b"." && item.name != b".." {
                names.push(item.name.to_vec());
            }
            true
        });
        listed.map_err(RootImportError::Damaged)?;
        for name in names {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            check_path_length(path)?;
            if !(self.skip)(path) {
                let entry = self.from.lookup(there, &name).map_err(RootImportError::Damaged)?;
                let result = self.object(path, &name, entry.ino, &entry.attr, here);
                self.from.forget(entry.ino, 1);
                result?;
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn object(
        &mut self,
        path: &mut Vec<u8>,
        name: &[u8],
        there: Ino,
        attr: &Attr,
        parent: Ino,
    ) -> Result<(), RootImportError> {
        if let Some(&first) = self.made.get(&there) {
            let linked = self.to.link(first, parent, name).map_err(at(path))?;
            self.to.forget(linked.ino, 1);
            return Ok(());
        }
        let target = match attr.kind {
            FileType::Symlink => self.from.read_link(there).map_err(RootImportError::Damaged)?,
            _ => Vec::new(),
        };
        let node = MknodArgs {
            rdev: attr.rdev,
            target: &target,
            ..MknodArgs::plain(attr.kind, attr.mode, attr.uid, attr.gid)
        };
        let here = self.to.mknod(parent, name, &node).map_err(at(path))?.ino;
        match attr.kind {
            FileType::Directory => self.directory(path, there, here)?,
            FileType::Regular => self.content(path, there, here, attr.size)?,
            _ => {}
        }
        self.attributes(path, there, here, attr)?;
        if attr.kind != FileType::Directory && attr.nlink > 1 {
            self.made.insert(there, here);
        } else {
            self.to.forget(here, 1);
        }
        Ok(())
    }

    fn content(
        &mut self,
        path: &[u8],
        there: Ino,
        here: Ino,
        size: u64,
    ) -> Result<(), RootImportError> {
        let mut offset = 0;
        while offset < size
            && let Some(data) =
                self.from.next_data(there, offset).map_err(RootImportError::Damaged)?
        {
            offset = data.start;
            let end = data.end.min(size);
            while offset < end {
                let limit = (end - offset).min(self.buffer.len() as u64) as usize;
                let read = self.from.read(there, offset, &mut self.buffer[..limit]);
                let mut rest = &self.buffer[..read.map_err(RootImportError::Damaged)?];
                while !rest.is_empty() {
                    let written = self.to.write(here, offset, rest).map_err(at(path))?;
                    rest = &rest[written..];
                    offset += written as u64;
                }
            }
        }
        // Sets the size, for a hole at the end.
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.to.set_attr(here, &set).map(drop).map_err(at(path))
    }

    /// Sets the attributes that creation could not set or that creating entries has changed.
    fn attributes(
        &self,
        path: &[u8],
        there: Ino,
        here: Ino,
        attr: &Attr,
    ) -> Result<(), RootImportError> {
        for (name, value) in self.from.xattrs(there).map_err(RootImportError::Damaged)? {
            match self.to.set_xattr(here, &name, &value, XattrFlags::Any) {
                // The output cannot hold them, so the tree does not have any.
                Ok(()) | Err(FsError::NotSupported) => {}
                Err(error) => return Err(at(path)(error)),
            }
        }
        let set = SetAttr {
            mode: (attr.kind != FileType::Symlink).then_some(attr.mode),
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            mtime: Some(attr.mtime),
            ..SetAttr::default()
        };
        self.to.set_attr(here, &set).map(drop).map_err(at(path))
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        for here in self.made.values() {
            self.to.forget(*here, 1);
        }
    }
}

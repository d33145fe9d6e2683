//! The root of layers, copied into a tree.
//!
//! All is kept that the tree can hold: types, owners, modes, times, devices, hard links, holes,
//! extended attributes where the output carries them.

use std::collections::HashMap;

use fs_model::tree::{MknodArgs, SetAttr, XattrFlags};
use fs_model::{Attr, FileType, FsError, Ino, Tree};

use super::{COPY_BUFFER, ImportError, at, too_long};

/// Copies all of `from` into `to`, but what `skip` says yes to.
pub(super) fn tree(
    from: &Tree,
    to: &Tree,
    skip: &dyn Fn(&[u8]) -> bool,
) -> Result<(), ImportError> {
    let mut copy = Copy { from, to, skip, made: HashMap::new(), buffer: vec![0; COPY_BUFFER] };
    let root = from.attr(Ino::ROOT).map_err(ImportError::Damaged)?;
    copy.directory(&mut Vec::new(), Ino::ROOT, Ino::ROOT)?;
    copy.attributes(b"", Ino::ROOT, Ino::ROOT, &root)
}

struct Copy<'a> {
    from: &'a Tree,
    to: &'a Tree,
    skip: &'a dyn Fn(&[u8]) -> bool,
    /// Objects with several names, by their numbers there; each holds a reference here.
    made: HashMap<Ino, Ino>,
    buffer: Vec<u8>,
}

impl Copy<'_> {
    /// Copies what is in a directory; `path` is its path, and is that again afterwards.
    fn directory(&mut self, path: &mut Vec<u8>, there: Ino, here: Ino) -> Result<(), ImportError> {
        let mut names = Vec::new();
        let listed = self.from.read_dir(there, 0, |item| {
            if item.name != b"." && item.name != b".." {
                names.push(item.name.to_vec());
            }
            true
        });
        listed.map_err(ImportError::Damaged)?;
        for name in names {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            too_long(path)?;
            if !(self.skip)(path) {
                let entry = self.from.lookup(there, &name).map_err(ImportError::Damaged)?;
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
    ) -> Result<(), ImportError> {
        if let Some(&first) = self.made.get(&there) {
            let linked = self.to.link(first, parent, name).map_err(at(path))?;
            self.to.forget(linked.ino, 1);
            return Ok(());
        }
        let target = match attr.kind {
            FileType::Symlink => self.from.read_link(there).map_err(ImportError::Damaged)?,
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
    ) -> Result<(), ImportError> {
        let mut offset = 0;
        while offset < size
            && let Some(data) = self.from.next_data(there, offset).map_err(ImportError::Damaged)?
        {
            offset = data.start;
            let end = data.end.min(size);
            while offset < end {
                let most = (end - offset).min(self.buffer.len() as u64) as usize;
                let read = self.from.read(there, offset, &mut self.buffer[..most]);
                let mut rest = &self.buffer[..read.map_err(ImportError::Damaged)?];
                while !rest.is_empty() {
                    let written = self.to.write(here, offset, rest).map_err(at(path))?;
                    rest = &rest[written..];
                    offset += written as u64;
                }
            }
        }
        // A hole at the end.
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        self.to.set_attr(here, &set).map(drop).map_err(at(path))
    }

    /// What making an object and what is in it has changed of it, and what making did not give it.
    fn attributes(
        &self,
        path: &[u8],
        there: Ino,
        here: Ino,
        attr: &Attr,
    ) -> Result<(), ImportError> {
        for (name, value) in self.from.xattrs(there).map_err(ImportError::Damaged)? {
            match self.to.set_xattr(here, &name, &value, XattrFlags::Any) {
                // The output cannot carry them, so the tree has none.
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

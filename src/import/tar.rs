//! A root file system's tar stream becomes the upper of a tree: nothing is unpacked on disk.
//!
//! What comes in is what a root file system needs: all types but sockets (tar has none), owners,
//! modes, times, device numbers, hard links, and extended attributes from pax records. Names are
//! taken from the root on, whatever they begin with; `..` in one is refused.

use std::collections::HashMap;
use std::io::{self, Read};

use ::tar::{Archive, Entry, EntryType};
use fs_model::tree::{NewNode, SetAttr, XattrFlags};
use fs_model::{Device, FileType, FsError, Ino, Time, Tree};

use super::{COPY_BUFFER, ImportError, at, text, too_long};

/// Takes `stream` into `tree`, which may not be mounted yet. Entries whose name, without slashes
/// around it, `skip` says yes to are left out, with what is below them.
///
/// # Errors
/// When the stream is damaged or the upper is full: the tree then holds part of it.
pub fn tar(
    tree: &Tree,
    stream: impl Read,
    skip: impl Fn(&[u8]) -> bool,
) -> Result<(), ImportError> {
    let mut import = Import { tree, made: HashMap::new(), directory_times: Vec::new() };
    import.made.insert(Vec::new(), Ino::ROOT);
    let mut archive = Archive::new(stream);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = clean(&entry.path_bytes())?;
        if !skip(&path) {
            import.entry(&path, &mut entry)?;
        }
    }
    import.finish()
}

struct Import<'a> {
    tree: &'a Tree,
    /// All paths that were made: for parents and hard links.
    made: HashMap<Vec<u8>, Ino>,
    /// Directories get their times last, because what is made in them changes them.
    directory_times: Vec<(Vec<u8>, Ino, Time)>,
}

/// A path from the root, without slashes around it and without `.`.
fn clean(path: &[u8]) -> Result<Vec<u8>, ImportError> {
    too_long(path)?;
    let mut clean = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => {
                let what = "its name leads out of the root";
                return Err(ImportError::Senseless { path: text(path), what });
            }
            name => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(name);
            }
        }
    }
    Ok(clean)
}

/// Parent and last name of a clean path that is not the root.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

impl Import<'_> {
    /// The directory at `path`, made if the stream did not have it.
    fn directory(&mut self, path: &[u8]) -> Result<Ino, ImportError> {
        if let Some(&ino) = self.made.get(path) {
            return Ok(ino);
        }
        let (parent, name) = split(path);
        let (parent, name) = (self.directory(parent)?, name.to_vec());
        let made = self.tree.make(parent, &name, &NewNode::directory(0o755, 0, 0));
        let ino = made.map_err(at(path))?.ino;
        self.made.insert(path.to_vec(), ino);
        Ok(ino)
    }

    fn entry<R: Read>(&mut self, path: &[u8], entry: &mut Entry<'_, R>) -> Result<(), ImportError> {
        let senseless = |what| ImportError::Senseless { path: text(path), what };
        let header = entry.header();
        let mode = (header.mode()? & 0o7777) as u16;
        let id = |id: u64| u32::try_from(id).map_err(|_| senseless("its owner has no 32-bit id"));
        let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
        let mtime = Time::from_secs(header.mtime()? as i64);
        let entry_type = header.entry_type();
        // In an entry that is no device some writers leave the numbers empty.
        let rdev = match entry_type {
            EntryType::Char | EntryType::Block => Device {
                major: header.device_major()?.unwrap_or(0),
                minor: header.device_minor()?.unwrap_or(0),
            },
            _ => Device::default(),
        };
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();

        let node = match entry_type {
            EntryType::Directory => NewNode::directory(mode, uid, gid),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                NewNode::file(mode, uid, gid)
            }
            EntryType::Symlink => NewNode::symlink(&target, uid, gid),
            EntryType::Char => NewNode::device(FileType::CharDevice, mode, uid, gid, rdev),
            EntryType::Block => NewNode::device(FileType::BlockDevice, mode, uid, gid, rdev),
            EntryType::Fifo => NewNode::plain(FileType::Fifo, mode, uid, gid),
            EntryType::Link => {
                let first = *self.made.get(&clean(&target)?).ok_or_else(|| {
                    senseless("a hard link to something that did not come before")
                })?;
                let (parent, name) = split(path);
                let parent = self.directory(parent)?;
                self.clear(parent, name, path)?;
                self.tree.link(first, parent, name).map_err(at(path))?;
                self.made.insert(path.to_vec(), first);
                return Ok(());
            }
            // Global headers say nothing of a file.
            EntryType::XGlobalHeader => return Ok(()),
            _ => return Err(senseless("an entry of a type that no root file system has")),
        };

        let existing = self.made.get(path).copied();
        let ino = match existing {
            Some(ino) if entry_type == EntryType::Directory => {
                let set = SetAttr {
                    mode: Some(mode),
                    uid: Some(uid),
                    gid: Some(gid),
                    ..SetAttr::default()
                };
                self.tree.set_attr(ino, &set).map_err(at(path))?;
                ino
            }
            _ => {
                let (parent, name) = split(path);
                let parent = self.directory(parent)?;
                self.clear(parent, name, path)?;
                let ino = self.tree.make(parent, name, &node).map_err(at(path))?.ino;
                self.made.insert(path.to_vec(), ino);
                ino
            }
        };
        if node.kind == FileType::Regular {
            self.content(path, ino, entry)?;
        }
        self.xattrs(path, ino, entry)?;
        // A setgid directory hands down its group, so owner and mode are set again.
        let set = SetAttr {
            mode: (node.kind != FileType::Symlink).then_some(mode),
            uid: Some(uid),
            gid: Some(gid),
            mtime: Some(mtime),
            ..SetAttr::default()
        };
        self.tree.set_attr(ino, &set).map_err(at(path))?;
        if node.kind == FileType::Directory {
            self.directory_times.push((path.to_vec(), ino, mtime));
        }
        Ok(())
    }

    /// Takes away what an earlier entry of the same name made: the last one counts.
    fn clear(&mut self, parent: Ino, name: &[u8], path: &[u8]) -> Result<(), ImportError> {
        if let Some(ino) = self.made.remove(path) {
            self.tree.unlink(parent, name).map_err(at(path))?;
            self.tree.forget(ino, 1);
        }
        Ok(())
    }

    fn content<R: Read>(
        &self,
        path: &[u8],
        ino: Ino,
        entry: &mut Entry<'_, R>,
    ) -> Result<(), ImportError> {
        let mut buffer = vec![0; COPY_BUFFER];
        let mut offset = 0;
        loop {
            let len = match entry.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let written = self.tree.write(ino, offset, rest).map_err(at(path))?;
                rest = &rest[written..];
                offset += written as u64;
            }
        }
    }

    fn xattrs<R: Read>(
        &self,
        path: &[u8],
        ino: Ino,
        entry: &mut Entry<'_, R>,
    ) -> Result<(), ImportError> {
        let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
        for extension in extensions {
            let extension = extension?;
            let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.") else { continue };
            match self.tree.set_xattr(ino, name, extension.value_bytes(), XattrFlags::Any) {
                // The output cannot carry them, so the tree has none.
                Ok(()) | Err(FsError::NotSupported) => {}
                Err(e) => return Err(at(path)(e)),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), ImportError> {
        for (path, ino, mtime) in &self.directory_times {
            let set = SetAttr { mtime: Some(*mtime), ..SetAttr::default() };
            self.tree.set_attr(*ino, &set).map_err(at(path))?;
        }
        for (path, ino) in self.made {
            if !path.is_empty() {
                self.tree.forget(ino, 1);
            }
        }
        Ok(())
    }
}

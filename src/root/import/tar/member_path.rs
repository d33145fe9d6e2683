//! Resolves the path of a member: its directory, and the entry that it replaces.

use fs_model::resolve::MAX_LINKS;
use fs_model::tar::Member;
use fs_model::tar::names::{after_dot_dot, components, is_created_last};
use fs_model::tree::MknodArgs;
use fs_model::{FileType, FsError, Ino, Time};

use super::super::{PATH_MAX, RootImportError, at, check_path_length, text};
use super::{Import, PendingDirectory};

/// The reason why a member of an archive cannot be created. GNU tar reports an error for each of
/// these, except for devices 0:0 and large files.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its name has a component `..`.
    #[error("its name contains `..`")]
    DotDot,
    /// Its name is below a symbolic link that GNU tar would not follow.
    #[error(
        "{link} is a symbolic link to {target}; members cannot be created below links that are \
         absolute or contain `..`"
    )]
    BelowLink {
        /// The link.
        link: String,
        /// Its target.
        target: String,
    },
    /// Its name is below an entry that is not a directory.
    #[error("{above} is not a directory")]
    BelowObject {
        /// The entry above it.
        above: String,
    },
    /// Its name is below a symbolic link whose target is not a directory.
    #[error("it is below a symbolic link to {missing}, which is not in the archive before it")]
    BelowMissing {
        /// The path that is missing.
        missing: String,
    },
    /// Its name follows too many symbolic links.
    #[error("its name leads through more than 40 symbolic links")]
    Loop,
    /// It is not a directory, and its name is the root's.
    #[error("its name is that of the root directory")]
    Root,
    /// It is not a directory, and a directory that is not empty has its name.
    #[error("an earlier member made it a directory, which is not empty")]
    NotEmpty,
    /// A symbolic link without a target.
    #[error("a symbolic link without a target")]
    NoTarget,
    /// A character device 0:0.
    #[error("a character device 0:0, which marks a deletion in overlays and cannot be in a root")]
    Whiteout,
    /// A file that is too large.
    #[error("a file of {size} bytes including holes; files in a base can have up to 16 TiB")]
    TooLarge {
        /// Its size in bytes, including holes.
        size: u64,
    },
    /// A hard link to a missing entry.
    #[error("a hard link to {target}, which is not in the archive before it")]
    LinkToMissing {
        /// The target's name.
        target: String,
    },
    /// A hard link to an entry that is left out.
    #[error("a hard link to {target}, which is left out of a base")]
    LinkToLeftOut {
        /// The target's name.
        target: String,
    },
    /// A hard link to a directory.
    #[error("a hard link to {target}, a directory")]
    LinkToDirectory {
        /// The target's name.
        target: String,
    },
}

/// A failure to make a member.
pub(super) enum MakeError {
    Member(MemberError),
    Fs(FsError),
}

impl From<MemberError> for MakeError {
    fn from(error: MemberError) -> Self {
        MakeError::Member(error)
    }
}

impl From<FsError> for MakeError {
    fn from(error: FsError) -> Self {
        MakeError::Fs(error)
    }
}

impl MakeError {
    pub(super) fn at(self, path: &[u8]) -> RootImportError {
        match self {
            MakeError::Member(source) => RootImportError::Member { path: text(path), source },
            MakeError::Fs(source) => at(path)(source),
        }
    }
}

/// A name in a directory of the tree.
pub(super) struct MemberPath {
    parent: Ino,
    /// The path from the root, with links followed except at its end. Empty for the root itself.
    pub(super) path: Vec<u8>,
}

impl MemberPath {
    fn name(&self) -> &[u8] {
        let slash = self.path.iter().rposition(|&byte| byte == b'/');
        &self.path[slash.map_or(0, |slash| slash + 1)..]
    }
}

/// A hard link to a symbolic link that GNU tar creates at the end.
pub(super) struct LateHardLink {
    target: Vec<u8>,
    /// The symbolic link.
    first: Ino,
}

fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

impl Import<'_> {
    /// Resolves the path of `member` and creates missing parent directories. `None` for a member
    /// that is left out.
    pub(super) fn place(&mut self, member: &Member) -> Result<Option<MemberPath>, RootImportError> {
        check_path_length(&member.path)?;
        let mut path = Vec::new();
        for name in components(&member.path) {
            if name == b".." {
                return Err(MakeError::from(MemberError::DotDot).at(&member.path));
            }
            join(&mut path, name);
        }
        if (self.skip)(&path) {
            return Ok(None);
        }
        let root = PendingDirectory { path: Box::default(), owned: None, mtime: member.mtime };
        self.directories.entry(Ino::ROOT).or_insert(root);
        let place = self.resolve(&path, Some(member.mtime));
        Ok(place.map_err(|error| error.at(&member.path))?.filter(|place| !(self.skip)(&place.path)))
    }

    /// Resolves the parent directory of a path without `..`. Creates missing directories with the
    /// time `time`, if given. Like GNU tar, creates none in the target of a link. Returns `None` if
    /// one of the directories is left out.
    fn resolve(
        &mut self,
        path: &[u8],
        time: Option<Time>,
    ) -> Result<Option<MemberPath>, MakeError> {
        let mut rest: Vec<(Vec<u8>, bool)> =
            components(path).rev().map(|name| (name.to_vec(), false)).collect();
        let mut links = 0;
        let (mut parent, mut path) = (Ino::ROOT, Vec::new());
        while let Some((name, is_of_link)) = rest.pop() {
            let above = path.len();
            join(&mut path, &name);
            // Links can lead to longer paths than the member's.
            if path.len() >= PATH_MAX {
                return Err(FsError::PathTooLong { path: path.into() }.into());
            }
            if rest.is_empty() {
                return Ok(Some(MemberPath { parent, path }));
            }
            let entry = match self.tree.lookup(parent, &name) {
                Ok(entry) => entry,
                Err(FsError::NotFound) if is_of_link => {
                    return Err(MemberError::BelowMissing { missing: text(&path) }.into());
                }
                Err(FsError::NotFound) => {
                    let Some(mtime) = time else { return Err(FsError::NotFound.into()) };
                    if (self.skip)(&path) {
                        return Ok(None);
                    }
                    let entry =
                        self.tree.mknod(parent, &name, &MknodArgs::directory(0o755, 0, 0))?;
                    let made =
                        PendingDirectory { path: path.as_slice().into(), owned: None, mtime };
                    self.directories.insert(entry.ino, made);
                    entry
                }
                Err(error) => return Err(error.into()),
            };
            // It has a name, so the number stays valid.
            self.tree.forget(entry.ino, 1);
            match entry.attr.kind {
                FileType::Directory => parent = entry.ino,
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(MemberError::Loop.into());
                    }
                    let target = self.tree.read_link(entry.ino)?;
                    if is_created_last(&target) {
                        let (link, target) = (text(&path), text(&target));
                        return Err(MemberError::BelowLink { link, target }.into());
                    }
                    rest.extend(components(&target).rev().map(|name| (name.to_vec(), true)));
                    path.truncate(above);
                }
                _ => return Err(MemberError::BelowObject { above: text(&path) }.into()),
            }
        }
        Ok(Some(MemberPath { parent, path }))
    }

    /// Creates an entry, or finds the existing directory. Returns it with a reference; `None` for a
    /// link that is left out.
    pub(super) fn make(
        &mut self,
        place: &MemberPath,
        node: &MknodArgs<'_>,
    ) -> Result<Option<Ino>, MakeError> {
        let is_directory = node.kind == FileType::Directory;
        if place.path.is_empty() {
            return if is_directory { Ok(Some(Ino::ROOT)) } else { Err(MemberError::Root.into()) };
        }
        let is_deferred_link = node.kind == FileType::Symlink && is_created_last(node.target);
        match self.tree.lookup(place.parent, place.name()) {
            Ok(entry) if is_directory && entry.attr.kind == FileType::Directory => {
                return Ok(Some(entry.ino));
            }
            Ok(entry) if is_deferred_link && self.is_deferred(place, entry.ino) => {
                self.tree.forget(entry.ino, 1);
                return Ok(None);
            }
            Ok(entry) => self.remove(place, entry.ino, entry.attr.kind)?,
            Err(FsError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let ino = self.tree.mknod(place.parent, place.name(), node)?.ino;
        if is_deferred_link {
            self.late_links.insert(ino);
        }
        Ok(Some(ino))
    }

    /// Whether GNU tar creates the entry at `place` at the end, and so treats a second link with
    /// this name as the same one.
    fn is_deferred(&mut self, place: &MemberPath, ino: Ino) -> bool {
        let is_deferred = self.late_links.contains(&ino);
        if is_deferred {
            self.notes.add(format!(
                "{}: of two symbolic links of this name that are absolute or contain `..`, the \
                 first is used, as in GNU tar",
                text(&place.path)
            ));
        }
        is_deferred
    }

    /// Removes the entry of an earlier member, and releases a reference to it.
    fn remove(&mut self, place: &MemberPath, ino: Ino, kind: FileType) -> Result<(), MakeError> {
        let removed = if kind == FileType::Directory {
            match self.tree.rmdir(place.parent, place.name()) {
                Ok(()) => {
                    self.directories.remove(&ino);
                    Ok(())
                }
                Err(FsError::NotEmpty) => Err(MemberError::NotEmpty.into()),
                Err(error) => Err(error.into()),
            }
        } else {
            self.tree.unlink(place.parent, place.name()).map_err(MakeError::from)
        };
        if kind == FileType::Symlink && self.tree.attr(ino).is_ok_and(|attr| attr.nlink == 0) {
            self.late_links.remove(&ino);
        }
        self.tree.forget(ino, 1);
        removed
    }

    /// Creates `place` as a further name of an earlier member.
    pub(super) fn hard_link(
        &mut self,
        place: &MemberPath,
        member: &Member,
    ) -> Result<(), RootImportError> {
        self.link(place, &member.target).map_err(|error| error.at(&member.path))
    }

    fn link(&mut self, place: &MemberPath, target: &[u8]) -> Result<(), MakeError> {
        if place.path.is_empty() {
            return Err(MemberError::Root.into());
        }
        let missing = || MemberError::LinkToMissing { target: text(target) }.into();
        let found = match self.resolve(after_dot_dot(target), None) {
            Ok(Some(found)) => found,
            Ok(None) | Err(MakeError::Fs(FsError::NotFound | FsError::NameTooLong)) => {
                return Err(missing());
            }
            Err(error) => return Err(error),
        };
        if (self.skip)(&found.path) {
            return Err(MemberError::LinkToLeftOut { target: text(target) }.into());
        }
        if found.path.is_empty() {
            return Err(MemberError::LinkToDirectory { target: text(target) }.into());
        }
        let first = match self.tree.lookup(found.parent, found.name()) {
            Ok(first) => first,
            Err(FsError::NotFound | FsError::NameTooLong) => return Err(missing()),
            Err(error) => return Err(error.into()),
        };
        let kind = first.attr.kind;
        let result = match kind {
            // A name with a slash at its end must be a directory.
            _ if target.ends_with(b"/") && kind != FileType::Directory => Err(missing()),
            _ => self.link_to(place, first.ino, kind, target),
        };
        self.tree.forget(first.ino, 1);
        result
    }

    fn link_to(
        &mut self,
        place: &MemberPath,
        first: Ino,
        kind: FileType,
        target: &[u8],
    ) -> Result<(), MakeError> {
        let existing = match self.tree.lookup(place.parent, place.name()) {
            Ok(entry) => Some(entry),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(entry) = existing {
            // It is the same inode, or GNU tar treats it as the same.
            if entry.ino == first
                || self.late_links.contains(&first) && self.is_deferred(place, entry.ino)
            {
                self.tree.forget(entry.ino, 1);
                return Ok(());
            }
        }
        if kind == FileType::Directory {
            if let Some(entry) = existing {
                self.tree.forget(entry.ino, 1);
            }
            return Err(MemberError::LinkToDirectory { target: text(target) }.into());
        }
        if let Some(entry) = existing {
            self.remove(place, entry.ino, entry.attr.kind)?;
        }
        let linked = self.tree.link(first, place.parent, place.name())?;
        self.tree.forget(linked.ino, 1);
        if self.late_links.contains(&first) {
            let link = LateHardLink { target: target.to_vec(), first };
            self.late_hard_links.insert(place.path.clone(), link);
        }
        Ok(())
    }

    /// Creates hard links to symbolic links that GNU tar creates at the end: by then their target's
    /// name may belong to another inode.
    pub(super) fn late_hard_links(&mut self) -> Result<(), RootImportError> {
        for (path, LateHardLink { target, first }) in std::mem::take(&mut self.late_hard_links) {
            let Ok(Some(place)) = self.resolve(&path, None) else { continue };
            let Ok(entry) = self.tree.lookup(place.parent, place.name()) else { continue };
            self.tree.forget(entry.ino, 1);
            if entry.ino == first {
                self.link(&place, &target).map_err(|error| error.at(&path))?;
            }
        }
        Ok(())
    }
}

//! Where a member goes: the directory for its name, and what is replaced there.

use fs_model::tar::Member;
use fs_model::tree::MknodArgs;
use fs_model::{FileType, FsError, Ino, Time};

use super::super::{ImportError, PATH_MAX, at, text, too_long};
use super::{Directory, Import};

/// How many symbolic links one name may follow, as in the kernel.
const MAX_LINKS: u32 = 40;

/// Why a member of an archive cannot be made. GNU tar reports an error for each of these, but for
/// devices 0:0 and large files.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// Its name has a component `..`.
    #[error("its name contains `..`")]
    DotDot,
    /// Its name is below a symbolic link that GNU tar would not follow.
    #[error(
        "{link} is a symbolic link to {target}; members are not made below links that are absolute \
         or contain `..`"
    )]
    BelowLink {
        /// The link.
        link: String,
        /// Its target.
        target: String,
    },
    /// Its name is below something else than a directory.
    #[error("{above} is not a directory")]
    BelowObject {
        /// The object above it.
        above: String,
    },
    /// Its name is below a symbolic link without a directory at its target.
    #[error("it is below a symbolic link to {missing}, which the archive does not have so far")]
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
    /// It is not a directory, and a directory with something in it has its name.
    #[error("an earlier member made it a directory, which has something in it")]
    NotEmpty,
    /// A symbolic link without a target.
    #[error("a symbolic link without a target")]
    NoTarget,
    /// A character device 0:0.
    #[error("a character device 0:0, which marks a deletion in overlays and cannot be in a root")]
    Whiteout,
    /// A file that is too large.
    #[error("a file of {size} bytes with its holes; a base has files of up to 16 TiB")]
    TooLarge {
        /// Its size in bytes, with holes.
        size: u64,
    },
    /// A hard link to something that is not there.
    #[error("a hard link to {target}, which the archive does not have before it")]
    LinkToMissing {
        /// The target's name.
        target: String,
    },
    /// A hard link to something that is left out.
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
    pub(super) fn at(self, path: &[u8]) -> ImportError {
        match self {
            MakeError::Member(source) => ImportError::Member { path: text(path), source },
            MakeError::Fs(source) => at(path)(source),
        }
    }
}

/// A name in a directory of the tree.
pub(super) struct Place {
    parent: Ino,
    /// The path from the root, with links followed but at its end. Empty for the root itself.
    pub(super) path: Vec<u8>,
}

impl Place {
    fn name(&self) -> &[u8] {
        let slash = self.path.iter().rposition(|&byte| byte == b'/');
        &self.path[slash.map_or(0, |slash| slash + 1)..]
    }
}

/// A hard link to a symbolic link that GNU tar makes at the end.
pub(super) struct LateHardLink {
    target: Vec<u8>,
    /// The symbolic link.
    first: Ino,
}

/// The components of a name, without `.` and slashes around them.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Whether GNU tar makes a symbolic link with this target after everything else, because it can
/// lead out of the root.
fn is_late(target: &[u8]) -> bool {
    target.starts_with(b"/") || components(target).any(|name| name == b"..")
}

/// The part of a hard link's target after its last `..`: GNU tar drops the rest.
fn after_dot_dot(target: &[u8]) -> &[u8] {
    let mut from = 0;
    let mut at = 0;
    for component in target.split(|&byte| byte == b'/') {
        at += component.len();
        if component == b".." {
            from = at;
        }
        at += 1;
    }
    &target[from..]
}

fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

impl Import<'_> {
    /// The place of `member`; missing directories above it are made. `None` for a member that is
    /// left out.
    pub(super) fn place(&mut self, member: &Member) -> Result<Option<Place>, ImportError> {
        too_long(&member.path)?;
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
        let root = Directory { path: Box::default(), owned: None, mtime: member.mtime };
        self.directories.entry(Ino::ROOT).or_insert(root);
        let place = self.resolve(&path, Some(member.mtime));
        Ok(place.map_err(|error| error.at(&member.path))?.filter(|place| !(self.skip)(&place.path)))
    }

    /// Finds the directory for a path without `..`. Missing directories are made if they are to
    /// have a `time`; but not at the target of a link, where GNU tar makes none either. `None` when
    /// one of them is left out.
    fn resolve(&mut self, path: &[u8], time: Option<Time>) -> Result<Option<Place>, MakeError> {
        let mut rest: Vec<(Vec<u8>, bool)> =
            components(path).rev().map(|name| (name.to_vec(), false)).collect();
        let mut links = 0;
        let (mut parent, mut path) = (Ino::ROOT, Vec::new());
        while let Some((name, is_of_link)) = rest.pop() {
            let above = path.len();
            join(&mut path, &name);
            // Links can lead deeper than the member's name is long.
            if path.len() >= PATH_MAX {
                return Err(FsError::PathTooLong { path: path.into() }.into());
            }
            if rest.is_empty() {
                return Ok(Some(Place { parent, path }));
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
                    let made = Directory { path: path.as_slice().into(), owned: None, mtime };
                    self.directories.insert(entry.ino, made);
                    entry
                }
                Err(error) => return Err(error.into()),
            };
            // It has a name, so it stays.
            self.tree.forget(entry.ino, 1);
            match entry.attr.kind {
                FileType::Directory => parent = entry.ino,
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(MemberError::Loop.into());
                    }
                    let target = self.tree.read_link(entry.ino)?;
                    if is_late(&target) {
                        let (link, target) = (text(&path), text(&target));
                        return Err(MemberError::BelowLink { link, target }.into());
                    }
                    rest.extend(components(&target).rev().map(|name| (name.to_vec(), true)));
                    path.truncate(above);
                }
                _ => return Err(MemberError::BelowObject { above: text(&path) }.into()),
            }
        }
        Ok(Some(Place { parent, path }))
    }

    /// Makes an object, or finds the directory that is there already. Gives it with a reference;
    /// `None` for a link that is left out.
    pub(super) fn make(
        &mut self,
        place: &Place,
        node: &MknodArgs<'_>,
    ) -> Result<Option<Ino>, MakeError> {
        let is_directory = node.kind == FileType::Directory;
        if place.path.is_empty() {
            return if is_directory { Ok(Some(Ino::ROOT)) } else { Err(MemberError::Root.into()) };
        }
        let is_late = node.kind == FileType::Symlink && is_late(node.target);
        match self.tree.lookup(place.parent, place.name()) {
            Ok(entry) if is_directory && entry.attr.kind == FileType::Directory => {
                return Ok(Some(entry.ino));
            }
            Ok(entry) if is_late && self.waits(place, entry.ino) => {
                self.tree.forget(entry.ino, 1);
                return Ok(None);
            }
            Ok(entry) => self.remove(place, entry.ino, entry.attr.kind)?,
            Err(FsError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let ino = self.tree.mknod(place.parent, place.name(), node)?.ino;
        if is_late {
            self.late_links.insert(ino);
        }
        Ok(Some(ino))
    }

    /// Whether GNU tar makes the object that is at `place` at the end, and so takes a second link
    /// of this name for the same one.
    fn waits(&mut self, place: &Place, ino: Ino) -> bool {
        let waits = self.late_links.contains(&ino);
        if waits {
            self.notes.add(format!(
                "{}: of two symbolic links of this name that are absolute or contain `..`, the \
                 first is taken, as by GNU tar",
                text(&place.path)
            ));
        }
        waits
    }

    /// Takes away what an earlier member made, and lets go of a reference to it.
    fn remove(&mut self, place: &Place, ino: Ino, kind: FileType) -> Result<(), MakeError> {
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

    /// Makes `place` one more name of an earlier member.
    pub(super) fn hard_link(&mut self, place: &Place, member: &Member) -> Result<(), ImportError> {
        self.link(place, &member.target).map_err(|error| error.at(&member.path))
    }

    fn link(&mut self, place: &Place, target: &[u8]) -> Result<(), MakeError> {
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
            // With a slash at its end it would have to be a directory.
            _ if target.ends_with(b"/") && kind != FileType::Directory => Err(missing()),
            _ => self.link_to(place, first.ino, kind, target),
        };
        self.tree.forget(first.ino, 1);
        result
    }

    fn link_to(
        &mut self,
        place: &Place,
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
            // It is that already, or GNU tar takes it for that.
            if entry.ino == first
                || self.late_links.contains(&first) && self.waits(place, entry.ino)
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

    /// Makes hard links to symbolic links that GNU tar makes at the end: by then the name that they
    /// link to may be another object's.
    pub(super) fn late_hard_links(&mut self) -> Result<(), ImportError> {
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

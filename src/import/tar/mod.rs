//! A root file system's tar stream becomes the upper of a tree: nothing is unpacked on disk.
//!
//! The tree becomes the one that GNU tar makes of the archive in an empty directory, run by root as
//! `tar -xp --numeric-owner --acls --xattrs --xattrs-include='*'`. Members that GNU tar reports an
//! error for end the import with a [`MemberError`].
//!
//! - Leading slashes are dropped; a name with `..` is refused.
//! - A later member of the same name replaces the earlier one; a directory that is there stays and
//!   gets the later attributes. A directory with something in it is not replaced.
//! - Members are made below symbolic links that are relative and without `..`, as these cannot lead
//!   out of the root. GNU tar makes the other links after everything else, so that nothing can be
//!   made below them.
//! - Directories get their attributes at the end, because members made in them change their times,
//!   and setgid and default access lists would be handed down.
//!
//! Differences: directories that are missing in the archive get the time of the first member in
//! them, users in access lists are those of the archive's own `/etc/passwd`, and access lists that
//! are stored as plain attributes are kept without `SCHILY.acl` records.

mod lists;
mod place;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;

use fs_model::acl;
use fs_model::tar::{End, Member, MemberKind, Reader};
use fs_model::tree::{MknodArgs, SetAttr, XattrFlags};
use fs_model::{Device, FileType, FsError, Ino, Time, Tree};

use self::lists::Lists;
use self::place::LateHardLink;
use super::{COPY_BUFFER, ImportError, at, text};

pub use place::MemberError;

/// The longest name of an extended attribute, in bytes (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;
/// The largest file, in bytes: that of ext4. Outputs but cpio can hold larger ones, but their holes
/// are written as zeros, which a few bytes of an archive must not make endless.
const MAX_FILE_SIZE: u64 = 16 << 40;
/// The most notes that are reported of one archive.
const MAX_NOTES: usize = 20;

/// Takes `stream` into `tree`, which may not be mounted yet. Entries whose path `skip` says yes to
/// are left out, with those below them. `report` is called with a sentence for each difference
/// between the archive and the tree.
///
/// # Errors
/// When the stream is damaged or has a member that cannot be made, or the upper is full: the tree
/// then holds part of it.
pub fn tar(
    tree: &Tree,
    stream: impl Read,
    skip: impl Fn(&[u8]) -> bool,
    report: &mut dyn FnMut(String),
) -> Result<(), ImportError> {
    let mut import = Import {
        tree,
        skip: &skip,
        directories: HashMap::new(),
        late_links: HashSet::new(),
        late_hard_links: BTreeMap::new(),
        lists: Lists::default(),
        notes: Notes { report, count: 0 },
        buffer: vec![0; COPY_BUFFER],
    };
    let mut reader = Reader::new(stream);
    while let Some(member) = reader.next_member()? {
        import.member(&mut reader, &member)?;
    }
    match reader.end() {
        Some(End::LoneZeroBlock(offset)) => import.notes.add(format!(
            "the archive ends with a lone block of zeros at byte {offset}; the rest is left out"
        )),
        Some(End::Unmarked) => import
            .notes
            .add("the archive does not end with two blocks of zeros; it may be cut off".to_owned()),
        Some(End::Marked) | None => {}
    }
    reader.drain()?;
    import.finish()
}

struct Import<'a> {
    tree: &'a Tree,
    skip: &'a dyn Fn(&[u8]) -> bool,
    /// Directories and the attributes that they get at the end.
    directories: HashMap<Ino, Directory>,
    /// Symbolic links that GNU tar makes at the end.
    late_links: HashSet<Ino>,
    /// Hard links to these, by path.
    late_hard_links: BTreeMap<Vec<u8>, LateHardLink>,
    lists: Lists,
    notes: Notes<'a>,
    buffer: Vec<u8>,
}

struct Directory {
    path: Box<[u8]>,
    /// Mode and owner; the mode that it has when no member describes it.
    owned: Option<Owned>,
    mtime: Time,
}

#[derive(Clone, Copy)]
struct Owned {
    mode: u16,
    uid: u32,
    gid: u32,
}

/// Reports things, the first ones of many.
struct Notes<'a> {
    report: &'a mut dyn FnMut(String),
    count: usize,
}

impl Notes<'_> {
    fn add(&mut self, note: String) {
        self.count += 1;
        if self.count <= MAX_NOTES {
            (self.report)(note);
        }
    }

    fn finish(self) {
        if self.count > MAX_NOTES {
            (self.report)(format!("{} more of these", self.count - MAX_NOTES));
        }
    }
}

impl Import<'_> {
    fn member<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
    ) -> Result<(), ImportError> {
        let refused = |error| ImportError::Member { path: text(&member.path), source: error };
        let Some(place) = self.place(member)? else { return Ok(()) };
        let path = place.path.as_slice();
        if let Some(flag) = member.unknown_type {
            self.notes.add(format!(
                "{}: taken as a regular file, for its type '{}' is not known",
                text(path),
                flag.escape_ascii()
            ));
        }
        // chown(2) takes this number for "do not change", and a new object is root's.
        let owner = |id: u32| if id == u32::MAX { 0 } else { id };
        let (uid, gid) = (owner(member.uid), owner(member.gid));
        let node = match member.kind {
            MemberKind::HardLink => return self.hard_link(&place, member),
            // It gets its mode and owner at the end.
            MemberKind::Object(FileType::Directory) => MknodArgs::directory(0o700, 0, 0),
            MemberKind::Object(FileType::Symlink) if member.target.is_empty() => {
                return Err(refused(MemberError::NoTarget));
            }
            MemberKind::Object(FileType::Symlink) => MknodArgs::symlink(&member.target, uid, gid),
            MemberKind::Object(FileType::CharDevice) if member.rdev == Device::default() => {
                return Err(refused(MemberError::Whiteout));
            }
            MemberKind::Object(kind) if kind.is_device() => {
                MknodArgs::device(kind, member.mode, uid, gid, member.rdev)
            }
            MemberKind::Object(kind) => MknodArgs::plain(kind, member.mode, uid, gid),
        };
        let made = self.make(&place, &node).map_err(|error| error.at(&member.path))?;
        let Some(ino) = made else { return Ok(()) };
        let owned = Owned { mode: member.mode, uid, gid };
        let result = self.fill(reader, member, ino, &place.path, owned);
        if !matches!(result, Ok(true)) {
            self.tree.forget(ino, 1);
        }
        result.map(drop)
    }

    /// Gives a new object its content and its attributes. Gives whether a reference of it is to be
    /// kept.
    fn fill<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
        ino: Ino,
        path: &[u8],
        owned: Owned,
    ) -> Result<bool, ImportError> {
        let kind = match member.kind {
            MemberKind::Object(kind) => kind,
            MemberKind::HardLink => return Ok(false),
        };
        if kind == FileType::Regular {
            self.content(reader, member, ino, path)?;
        }
        self.xattrs(member, kind, ino, path)?;
        if kind == FileType::Directory {
            let (path, owned, mtime) = (path.into(), Some(owned), member.mtime);
            self.directories.insert(ino, Directory { path, owned, mtime });
        } else {
            let set = SetAttr {
                mode: (kind != FileType::Symlink).then_some(owned.mode),
                uid: Some(owned.uid),
                gid: Some(owned.gid),
                mtime: Some(member.mtime),
                ..SetAttr::default()
            };
            self.tree.set_attr(ino, &set).map_err(at(path))?;
        }
        if kind == FileType::Symlink {
            return Ok(false);
        }
        self.lists.keep(self.tree, member, kind, ino, path)
    }

    fn content<R: Read>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
        ino: Ino,
        path: &[u8],
    ) -> Result<(), ImportError> {
        if member.size > MAX_FILE_SIZE {
            let source = MemberError::TooLarge { size: member.size };
            return Err(ImportError::Member { path: text(path), source });
        }
        while let Some((mut offset, length)) = reader.read_data(&mut self.buffer)? {
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let written = self.tree.write(ino, offset, rest).map_err(at(path))?;
                rest = &rest[written..];
                offset += written as u64;
            }
        }
        // A hole at the end.
        let set = SetAttr { size: Some(member.size), ..SetAttr::default() };
        self.tree.set_attr(ino, &set).map(drop).map_err(at(path))
    }

    /// Sets extended attributes, but access lists.
    fn xattrs(
        &mut self,
        member: &Member,
        kind: FileType,
        ino: Ino,
        path: &[u8],
    ) -> Result<(), ImportError> {
        let holds_users = matches!(kind, FileType::Regular | FileType::Directory);
        for (name, value) in member.xattrs.iter().filter(|(name, _)| !acl::is_acl(name)) {
            let set = match &**name {
                name if name.len() > XATTR_NAME_MAX => Err(FsError::Invalid),
                // As the kernel has it.
                name if name.starts_with(b"user.") && !holds_users => Err(FsError::NotPermitted),
                name => self.tree.set_xattr(ino, name, value, XattrFlags::Any),
            };
            match set {
                Ok(()) => {}
                // The output cannot carry it, so the tree has none.
                Err(FsError::NotSupported) if !self.tree.xattr_support().has(name) => {}
                Err(error @ (FsError::NotSupported | FsError::NotPermitted | FsError::Invalid)) => {
                    let name = &name[..name.len().min(XATTR_NAME_MAX)];
                    self.notes.add(format!(
                        "{}: its attribute {} is left out: {error}",
                        text(path),
                        text(name)
                    ));
                }
                Err(error) => return Err(at(path)(error)),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), ImportError> {
        self.late_hard_links()?;
        for (&ino, directory) in &self.directories {
            let owned = directory.owned;
            let set = SetAttr {
                mode: owned.map(|owned| owned.mode),
                uid: owned.map(|owned| owned.uid),
                gid: owned.map(|owned| owned.gid),
                mtime: Some(directory.mtime),
                ..SetAttr::default()
            };
            self.tree.set_attr(ino, &set).map_err(at(&directory.path))?;
        }
        let lists = std::mem::take(&mut self.lists);
        lists.apply(self.tree, &mut |note| self.notes.add(note))?;
        self.notes.finish();
        Ok(())
    }
}

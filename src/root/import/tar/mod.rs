//! Imports the tar stream of a root file system into the upper of a tree, without unpacking it to
//! disk.
//!
//! The resulting tree is the one that GNU tar makes of the archive in an empty directory, run by
//! root as `tar -xp --numeric-owner --acls --xattrs --xattrs-include='*'`. Members for which GNU
//! tar reports an error end the import with a [`MemberError`].
//!
//! - Leading slashes are dropped; a name with `..` is an error.
//! - A later member with the same name replaces the earlier one; an existing directory stays and
//!   gets the later attributes. A directory that is not empty is not replaced.
//! - Members are created below symbolic links that are relative and without `..`, as these cannot
//!   lead out of the root. GNU tar creates the other links last, so that nothing can be created
//!   below them.
//! - Directories get their attributes at the end, because members created in them change their
//!   times, and would inherit setgid and default ACLs.
//!
//! Differences: directories that are missing in the archive get the time of the first member in
//! them, users in ACLs are those of the archive's own `/etc/passwd`, and ACLs that are stored as
//! plain attributes are kept without `SCHILY.acl` records.

mod lists;
mod member_path;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, Read};

use fs_model::acl;
use fs_model::tar::{End, Member, MemberKind, Reader};
use fs_model::tree::{MknodArgs, SetAttr, XattrFlags};
use fs_model::{Device, FileType, FsError, Ino, Time, Tree};

use self::lists::PendingAcls;
use self::member_path::LateHardLink;
use super::{COPY_BUFFER_BYTES, RootImportError, at, text};

pub use member_path::MemberError;

/// Maximum length of an extended attribute's name, in bytes (`XATTR_NAME_MAX`).
const XATTR_NAME_MAX: usize = 255;
/// Maximum size of a file, in bytes: that of ext4. Outputs other than cpio can hold larger files,
/// but holes are written as zeros, and a few bytes of an archive must not produce endless output.
const MAX_FILE_SIZE: u64 = 16 << 40;
/// Maximum number of notes reported for one archive.
const MAX_NOTES: usize = 20;

/// Imports `stream` into `tree`, which must not be mounted yet. Entries whose path satisfies `skip`
/// are left out, with everything below them. `report` is called with a sentence for each difference
/// between the archive and the tree.
///
/// # Errors
/// Fails if the stream is damaged or has a member that cannot be created, or the upper is full:
/// the tree then contains a part of it.
pub fn tar(
    tree: &Tree,
    stream: impl Read,
    skip: impl Fn(&[u8]) -> bool,
    report: &mut dyn FnMut(String),
) -> Result<(), RootImportError> {
    let mut import = Import {
        tree,
        skip: &skip,
        directories: HashMap::new(),
        late_links: HashSet::new(),
        late_hard_links: BTreeMap::new(),
        lists: PendingAcls::default(),
        notes: Notes { report, count: 0 },
        buffer: vec![0; COPY_BUFFER_BYTES],
    };
    let mut reader = Reader::new(stream);
    while let Some(member) = reader.next_member()? {
        import.member(&mut reader, &member)?;
    }
    match reader.end() {
        Some(End::LoneZeroBlock(offset)) => import.notes.add(format!(
            "the archive ends with a lone block of zeros at byte {offset}; the rest is left out"
        )),
        Some(End::Unmarked) => {
            let note = "the archive does not end with two blocks of zeros; it may be truncated";
            import.notes.add(note.to_owned());
        }
        Some(End::Marked) | None => {}
    }
    reader.drain()?;
    import.finish()
}

struct Import<'a> {
    tree: &'a Tree,
    skip: &'a dyn Fn(&[u8]) -> bool,
    /// Directories, with the attributes that are set at the end.
    directories: HashMap<Ino, PendingDirectory>,
    /// Symbolic links that GNU tar creates at the end.
    late_links: HashSet<Ino>,
    /// Hard links to these, by path.
    late_hard_links: BTreeMap<Vec<u8>, LateHardLink>,
    lists: PendingAcls,
    notes: Notes<'a>,
    buffer: Vec<u8>,
}

struct PendingDirectory {
    path: Box<[u8]>,
    /// Mode and owner; `None` for a directory without a member.
    owned: Option<ModeAndOwner>,
    mtime: Time,
}

#[derive(Clone, Copy)]
struct ModeAndOwner {
    mode: u16,
    uid: u32,
    gid: u32,
}

/// Reports the first notes.
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
    fn member<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
    ) -> Result<(), RootImportError> {
        let refused = |error| RootImportError::Member { path: text(&member.path), source: error };
        let Some(place) = self.place(member)? else { return Ok(()) };
        let path = place.path.as_slice();
        if let Some(flag) = member.unknown_type {
            self.notes.add(format!(
                "{}: imported as a regular file, because its type '{}' is unknown",
                text(path),
                flag.escape_ascii()
            ));
        }
        // chown(2) treats this id as "do not change", and a new file is root's.
        let owner = |id: u32| if id == u32::MAX { 0 } else { id };
        let (uid, gid) = (owner(member.uid), owner(member.gid));
        let node = match member.kind {
            MemberKind::HardLink => return self.hard_link(&place, member),
            // Mode and owner are set at the end.
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
        let owned = ModeAndOwner { mode: member.mode, uid, gid };
        let result = self.fill(reader, member, ino, &place.path, owned);
        if !matches!(result, Ok(true)) {
            self.tree.forget(ino, 1);
        }
        result.map(drop)
    }

    /// Sets the content and the attributes of a new file. Returns whether a reference to it is
    /// kept.
    fn fill<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
        ino: Ino,
        path: &[u8],
        owned: ModeAndOwner,
    ) -> Result<bool, RootImportError> {
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
            self.directories.insert(ino, PendingDirectory { path, owned, mtime });
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

    fn content<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        member: &Member,
        ino: Ino,
        path: &[u8],
    ) -> Result<(), RootImportError> {
        if member.size > MAX_FILE_SIZE {
            let source = MemberError::TooLarge { size: member.size };
            return Err(RootImportError::Member { path: text(path), source });
        }
        while let Some((mut offset, length)) = reader.read_data(&mut self.buffer)? {
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let written = self.tree.write(ino, offset, rest).map_err(at(path))?;
                rest = &rest[written..];
                offset += written as u64;
            }
        }
        // Sets the size, for a hole at the end.
        let set = SetAttr { size: Some(member.size), ..SetAttr::default() };
        self.tree.set_attr(ino, &set).map(drop).map_err(at(path))
    }

    /// Sets extended attributes except ACLs.
    fn xattrs(
        &mut self,
        member: &Member,
        kind: FileType,
        ino: Ino,
        path: &[u8],
    ) -> Result<(), RootImportError> {
        let holds_users = matches!(kind, FileType::Regular | FileType::Directory);
        for (name, value) in member.xattrs.iter().filter(|(name, _)| !acl::is_acl(name)) {
            let set = match &**name {
                name if name.len() > XATTR_NAME_MAX => Err(FsError::Invalid),
                // As in the kernel.
                name if name.starts_with(b"user.") && !holds_users => Err(FsError::NotPermitted),
                name => self.tree.set_xattr(ino, name, value, XattrFlags::Any),
            };
            match set {
                Ok(()) => {}
                // The output cannot hold it, so the tree does not have it.
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

    fn finish(mut self) -> Result<(), RootImportError> {
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

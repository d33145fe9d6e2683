//! Builds the tree that GNU tar extracts from the members of an archive into an empty directory, as
//! `tar -xp --numeric-owner --acls --xattrs --xattrs-include='*'`, run by root.
//!
//! - Leading slashes are dropped; a name with `..` is an error.
//! - A later member with the same name replaces the earlier one. An existing directory stays and
//!   gets the later attributes; one that is not empty is not replaced by another type.
//! - A missing directory gets mode 0755, owner root and the time of the first member in it.
//! - A symbolic link in the path of a member is followed within the archive if it is relative and
//!   without `..`. GNU tar creates the other links last, so that nothing can be created below them,
//!   and of two such links with the same name the first one remains.
//! - ACLs with names of users or groups are kept until the whole archive is read, because the
//!   accounts that give them ids may be in the archive.

use std::collections::BTreeMap;
use std::mem;

use crate::acl::{self, AccountIds, Acl, TextAcl};
use crate::attr::{Attr, Device, FileType, Time};
use crate::layer::archive_names::{ArchiveNames, MARKER, NAME_MAX, directory_links};
use crate::layer::memory::{MemoryBudget, OverBudget};
use crate::layer::{LayerDirEntry, Xattr, overlayfs};
use crate::resolve::MAX_LINKS;
use crate::tar::names::{after_dot_dot, components, is_created_last};
use crate::tar::{Member, MemberKind};

use super::Piece;

/// Paths and link targets must be shorter than this, in bytes.
const PATH_MAX: usize = 4096;
/// Maximum number of path components resolved after symbolic links in all. Bounds the time for a
/// crafted archive.
const MAX_STEPS_BEHIND_LINKS: u32 = 2_000_000;
/// Maximum length of an extended attribute's name, in bytes.
const XATTR_NAME_MAX: usize = 255;
/// Namespaces of extended attributes other than ACLs.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// Maximum memory of an object in the index, apart from its variable parts: node, names and table
/// slots.
const OBJECT_BYTES: u64 = 512;

const INVALID_ACL: &str = "its ACL is not valid";

/// Index of the root in the list of nodes.
pub(super) const ROOT: usize = 0;

/// An object.
#[derive(Debug)]
pub(super) struct TarNode {
    kind: FileType,
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: Time,
    rdev: Device,
    nlink: u32,
    /// Sorted by name.
    pub(super) xattrs: Vec<Xattr>,
    pub(super) data: TarData,
}

/// The part of a node that depends on its type.
#[derive(Debug)]
pub(super) enum TarData {
    None,
    File {
        size: u64,
        pieces: Vec<Piece>,
    },
    Target(Box<[u8]>),
    /// A directory during construction.
    Growing {
        opaque: bool,
        children: BTreeMap<Box<[u8]>, usize>,
    },
    /// A directory of the finished tree.
    Directory {
        opaque: bool,
        entries: Vec<LayerDirEntry>,
    },
}

/// The reason why a member cannot be added.
#[derive(Debug)]
pub(super) enum InsertError {
    /// The layer would exceed its memory limit.
    OverBudget(OverBudget),
    /// GNU tar would report an error.
    Invalid(String),
}

impl From<OverBudget> for InsertError {
    fn from(error: OverBudget) -> Self {
        InsertError::OverBudget(error)
    }
}

impl From<&str> for InsertError {
    fn from(what: &str) -> Self {
        InsertError::Invalid(what.to_owned())
    }
}

impl From<String> for InsertError {
    fn from(what: String) -> Self {
        InsertError::Invalid(what)
    }
}

/// A name in a directory; no name for the root.
struct Place<'a> {
    parent: usize,
    name: Option<&'a [u8]>,
}

/// A hard link to a symbolic link that GNU tar creates last.
#[derive(Debug)]
struct LateHardLink {
    target: Box<[u8]>,
    /// The symbolic link.
    first: usize,
}

/// A tree under construction. Its first node is the root.
#[derive(Debug, Default)]
pub(super) struct TarTreeBuilder {
    nodes: Vec<TarNode>,
    /// The parent of the previous member and its path, because most consecutive members have the
    /// same parent.
    recent: Option<(Box<[u8]>, usize)>,
    /// Hard links to symbolic links that GNU tar creates last.
    late_hard_links: BTreeMap<(usize, Box<[u8]>), LateHardLink>,
    steps_behind_links: u32,
    describes_root: bool,
    has_acls: bool,
    /// ACLs with names, by node.
    named_acls: BTreeMap<usize, NamedAcls>,
}

/// The ACLs of an object, if one of them has names of users or groups.
#[derive(Debug)]
pub(super) struct NamedAcls {
    /// The object's path and the position of its member, for errors.
    path: Box<[u8]>,
    offset: u64,
    /// Access list and default list.
    lists: [Option<TextAcl>; 2],
}

/// Returns the maximum memory of a member in the index, in bytes, without its content.
pub(super) fn memory_of(member: &Member) -> u64 {
    let xattrs = member.xattrs.iter().map(|(name, value)| name.len() + value.len() + 32);
    let lists = member.access_list.iter().chain(&member.default_list).map(Vec::len);
    let bytes = 2 * member.path.len() + member.target.len() + xattrs.chain(lists).sum::<usize>();
    OBJECT_BYTES + bytes as u64
}

impl TarTreeBuilder {
    /// Returns whether the archive has a member for the root.
    pub(super) fn describes_root(&self) -> bool {
        self.describes_root
    }

    /// Returns whether an object may have an ACL.
    pub(super) fn has_acls(&self) -> bool {
        self.has_acls
    }

    /// Takes the ACLs that have names, by the number of their object.
    pub(super) fn take_named_acls(&mut self) -> BTreeMap<usize, NamedAcls> {
        mem::take(&mut self.named_acls)
    }

    /// Adds a member with its content. Directories that are missing in its path are taken from
    /// `budget`.
    pub(super) fn insert(
        &mut self,
        member: &Member,
        pieces: Vec<Piece>,
        budget: &mut MemoryBudget,
    ) -> Result<(), InsertError> {
        if self.nodes.is_empty() {
            self.nodes.push(TarNode::directory(member.mtime));
        }
        if member.path.len() >= PATH_MAX || member.target.len() >= PATH_MAX {
            return Err("its name or link target is longer than 4,095 bytes".into());
        }
        let place = self.place(&member.path, Some((member.mtime, budget)))?;
        let kind = match member.kind {
            MemberKind::Object(kind) => kind,
            MemberKind::HardLink => return self.hard_link(&place, &member.target),
        };
        if kind == FileType::Symlink && (member.target.is_empty() || member.target.contains(&0)) {
            return Err("a symbolic link with an invalid target".into());
        }
        let Some(name) = place.name else {
            if kind != FileType::Directory {
                return Err("its name is that of the root directory".into());
            }
            self.describes_root = true;
            return self.describe(ROOT, member);
        };
        if kind == FileType::Directory && name.len() > NAME_MAX {
            return Err(format!("a name of {} bytes (maximum: {NAME_MAX})", name.len()).into());
        }
        let existing = self.child(place.parent, name);
        if let Some(existing) = existing {
            let node = &self.nodes[existing];
            if kind == FileType::Directory && node.kind == kind {
                return self.describe(existing, member);
            }
            if kind == FileType::Symlink
                && is_created_last(&member.target)
                && node.is_deferred_link()
            {
                return Ok(());
            }
            self.remove(place.parent, name, existing)?;
        }
        let data = match kind {
            FileType::Directory => TarData::Growing { opaque: false, children: BTreeMap::new() },
            FileType::Regular => TarData::File { size: member.size, pieces },
            FileType::Symlink => TarData::Target(member.target.clone().into()),
            _ => TarData::None,
        };
        let node = TarNode { kind, rdev: member.rdev, data, ..TarNode::directory(member.mtime) };
        let index = self.add(place.parent, name, node);
        self.describe(index, member)
    }

    /// Returns the finished tree: resolves whiteouts by name, counts links, and sorts entries.
    pub(super) fn finish(mut self) -> Result<Vec<TarNode>, String> {
        match self.late_hard_links() {
            Ok(()) => {}
            Err(InsertError::OverBudget(error)) => return Err(error.to_string()),
            Err(InsertError::Invalid(what)) => return Err(what),
        }
        if self.nodes.is_empty() {
            self.nodes.push(TarNode::directory(Time::default()));
        }
        let mut names = ArchiveNames::new(self.nodes.len());
        for index in 0..self.nodes.len() {
            let TarData::Growing { opaque, children } = &mut self.nodes[index].data else {
                continue;
            };
            let (opaque, children) = (*opaque, mem::take(children));
            let object = |node: usize| (self.nodes[node].kind, self.nodes[node].rdev);
            let entries = names.entries(index, children, object, |_| false)?;
            self.nodes[index].data = TarData::Directory { opaque, entries };
        }
        for (index, node) in self.nodes.iter_mut().enumerate() {
            node.nlink = names.links(index);
            if let TarData::Directory { opaque, entries } = &mut node.data {
                *opaque |= names.is_opaque(index);
                node.nlink = directory_links(entries);
            }
        }
        Ok(self.nodes)
    }

    /// Creates `place` as a further name of an earlier member.
    fn hard_link(&mut self, place: &Place<'_>, target: &[u8]) -> Result<(), InsertError> {
        let Some(name) = place.name else {
            return Err("its name is that of the root directory".into());
        };
        let shown = || String::from_utf8_lossy(target).into_owned();
        let missing =
            || format!("a hard link to {}, which is not in the archive before it", shown());
        let found = self.place(after_dot_dot(target), None)?;
        let Some(first) = found.name else {
            return Err(format!("a hard link to {}, a directory", shown()).into());
        };
        let first = self.child(found.parent, first).ok_or_else(missing)?;
        let is_directory = self.nodes[first].kind == FileType::Directory;
        if target.ends_with(b"/") && !is_directory {
            return Err(missing().into());
        }
        let existing = self.child(place.parent, name);
        if let Some(existing) = existing {
            let are_deferred = [first, existing].map(|node| self.nodes[node].is_deferred_link());
            if existing == first || are_deferred == [true; 2] {
                return Ok(());
            }
        }
        if is_directory {
            return Err(format!("a hard link to {}, a directory", shown()).into());
        }
        if let Some(existing) = existing {
            self.remove(place.parent, name, existing)?;
        }
        self.link(place.parent, name, first);
        if self.nodes[first].is_deferred_link() {
            let link = LateHardLink { target: target.into(), first };
            self.late_hard_links.insert((place.parent, name.into()), link);
        }
        Ok(())
    }

    /// Creates the hard links to links that GNU tar creates last again: another object may have
    /// their name by now.
    fn late_hard_links(&mut self) -> Result<(), InsertError> {
        for ((parent, name), LateHardLink { target, first }) in mem::take(&mut self.late_hard_links)
        {
            if self.child(parent, &name) == Some(first) {
                self.hard_link(&Place { parent, name: Some(&name) }, &target)?;
            }
        }
        Ok(())
    }

    /// Sets the attributes of a member.
    fn describe(&mut self, index: usize, member: &Member) -> Result<(), InsertError> {
        // chown(2) treats this id as "do not change", and a new file is root's.
        let owner = |id: u32| if id == u32::MAX { 0 } else { id };
        let node = &mut self.nodes[index];
        // Linux gives all symbolic links this mode.
        node.mode = if node.kind == FileType::Symlink { 0o777 } else { member.mode };
        node.uid = owner(member.uid);
        node.gid = owner(member.gid);
        node.mtime = member.mtime;
        let holds_users = matches!(node.kind, FileType::Regular | FileType::Directory);
        let mut xattrs: BTreeMap<Box<[u8]>, Box<[u8]>> =
            node.xattrs.drain(..).filter(|(name, _)| !acl::is_acl(name)).collect();
        self.named_acls.remove(&index);
        let mut lists = [None, None];
        for (name, value) in &member.xattrs {
            if let Some(attribute) = overlayfs::PREFIXES.iter().find_map(|p| name.strip_prefix(*p))
            {
                if let TarData::Growing { opaque, .. } = &mut node.data
                    && attribute == b"opaque"
                {
                    *opaque = **value == *b"y";
                }
            } else if let Some(list) =
                [acl::ACCESS, acl::DEFAULT].iter().position(|n| **name == **n)
            {
                lists[list] = Some(Acl::parse(value).ok_or(INVALID_ACL)?);
            } else if name.len() <= XATTR_NAME_MAX
                && !name.contains(&0)
                && NAMESPACES.iter().any(|space| name.starts_with(space))
                && (holds_users || !name.starts_with(b"user."))
            {
                // The kernel rejects all others.
                xattrs.insert(name.clone(), value.clone());
            }
        }
        let mut named = [None, None];
        for (index, text) in [&member.access_list, &member.default_list].into_iter().enumerate() {
            let Some(text) = text else { continue };
            let list = TextAcl::parse(text).ok_or(INVALID_ACL)?;
            if list.has_names() {
                (lists[index], named[index]) = (None, Some(list));
            } else {
                let list = list.resolve(&AccountIds::default(), |_| {});
                lists[index] = Some(list.ok_or(INVALID_ACL)?);
            }
        }
        node.xattrs = xattrs.into_iter().collect();
        self.has_acls |= node.set_acls(lists) || named.iter().any(Option::is_some);
        if named.iter().any(Option::is_some) {
            let (path, offset) = (member.path.as_slice().into(), member.offset);
            self.named_acls.insert(index, NamedAcls { path, offset, lists: named });
        }
        Ok(())
    }

    /// Resolves the parent directory of a path. Creates missing directories with a time, if given.
    fn place<'a>(
        &mut self,
        path: &'a [u8],
        create: Option<(Time, &mut MemoryBudget)>,
    ) -> Result<Place<'a>, InsertError> {
        let mut names = components(path);
        let Some(name) = names.next_back() else { return Ok(Place { parent: ROOT, name: None }) };
        if names.clone().chain([name]).any(|name| name == b"..") {
            return Err("its name contains `..`".into());
        }
        // The longest names have whiteouts, too.
        let hidden = name.strip_prefix(MARKER).unwrap_or(name);
        if let Some(long) = names.clone().chain([hidden]).find(|name| name.len() > NAME_MAX) {
            return Err(format!("a name of {} bytes (maximum: {NAME_MAX})", long.len()).into());
        }
        if path.contains(&0) {
            return Err("its name contains a NUL".into());
        }
        // Equal bytes before the last component mean the same directory.
        let above = path.strip_suffix(name);
        if let (Some(above), Some((recent, parent))) = (above, &self.recent)
            && above == &recent[..]
        {
            return Ok(Place { parent: *parent, name: Some(name) });
        }
        let parent = self.walk(names.rev().collect(), create)?;
        self.recent = above.map(|above| (above.into(), parent));
        Ok(Place { parent, name: Some(name) })
    }

    /// Resolves the path of a directory, whose components are given in reverse order.
    fn walk(
        &mut self,
        names: Vec<&[u8]>,
        mut create: Option<(Time, &mut MemoryBudget)>,
    ) -> Result<usize, InsertError> {
        let mut ahead: Vec<(Box<[u8]>, bool)> =
            names.into_iter().map(|name| (name.into(), false)).collect();
        let (mut at, mut links) = (ROOT, 0);
        while let Some((name, is_of_link)) = ahead.pop() {
            let shown = || String::from_utf8_lossy(&name).into_owned();
            if links > 0 {
                self.steps_behind_links += 1;
                if self.steps_behind_links > MAX_STEPS_BEHIND_LINKS {
                    return Err("too many members behind symbolic links".into());
                }
            }
            let next = match (self.child(at, &name), &mut create) {
                (Some(next), _) => next,
                (None, Some((mtime, budget))) if !is_of_link => {
                    budget.take(OBJECT_BYTES + 2 * name.len() as u64)?;
                    self.add(at, &name, TarNode::directory(*mtime))
                }
                _ => {
                    return Err(format!(
                        "its path leads to {}, which is not in the archive before it",
                        shown()
                    )
                    .into());
                }
            };
            match &self.nodes[next].data {
                TarData::Growing { .. } => at = next,
                TarData::Target(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(
                            format!("more than {MAX_LINKS} symbolic links in its path").into()
                        );
                    }
                    if is_created_last(target) {
                        let target = String::from_utf8_lossy(target);
                        return Err(format!(
                            "{} is a symbolic link to {target}; members cannot be created below \
                             links that are absolute or contain `..`",
                            shown()
                        )
                        .into());
                    }
                    ahead.extend(components(target).rev().map(|name| (name.into(), true)));
                }
                _ => return Err(format!("{} is not a directory", shown()).into()),
            }
        }
        Ok(at)
    }

    fn child(&self, directory: usize, name: &[u8]) -> Option<usize> {
        match &self.nodes[directory].data {
            TarData::Growing { children, .. } => children.get(name).copied(),
            _ => None,
        }
    }

    fn add(&mut self, directory: usize, name: &[u8], node: TarNode) -> usize {
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.link(directory, name, index);
        index
    }

    fn link(&mut self, directory: usize, name: &[u8], node: usize) {
        if let TarData::Growing { children, .. } = &mut self.nodes[directory].data {
            children.insert(name.into(), node);
        }
    }

    /// Removes the object at `name` before it is replaced.
    fn remove(
        &mut self,
        directory: usize,
        name: &[u8],
        existing: usize,
    ) -> Result<(), InsertError> {
        match &self.nodes[existing].data {
            TarData::Growing { children, .. } if !children.is_empty() => {
                return Err("an earlier member made it a directory, which is not empty".into());
            }
            // It may be in the path of the recent parent.
            TarData::Growing { .. } | TarData::Target(_) => self.recent = None,
            _ => {}
        }
        if let TarData::Growing { children, .. } = &mut self.nodes[directory].data {
            children.remove(name);
        }
        Ok(())
    }
}

impl TarNode {
    /// Creates a directory that has no member.
    fn directory(mtime: Time) -> Self {
        TarNode {
            kind: FileType::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime,
            rdev: Device::default(),
            nlink: 1,
            xattrs: Vec::new(),
            data: TarData::Growing { opaque: false, children: BTreeMap::new() },
        }
    }

    /// Sets an access list and a default list. Returns whether one of them is stored: a list that
    /// only repeats the mode is not.
    fn set_acls(&mut self, [access, default]: [Option<Acl>; 2]) -> bool {
        let before = self.xattrs.len();
        if let Some(list) = access.filter(|_| self.kind != FileType::Symlink) {
            self.mode = list.mode(self.mode);
            if !list.is_plain() {
                self.xattrs.push((acl::ACCESS.into(), list.to_value().into()));
            }
        }
        if let Some(list) = default.filter(|_| self.kind == FileType::Directory) {
            self.xattrs.push((acl::DEFAULT.into(), list.to_value().into()));
        }
        self.xattrs.sort();
        self.xattrs.len() > before
    }

    /// Sets ACLs with names. The error is that of the object's member.
    pub(super) fn set_named_acls(
        &mut self,
        acls: &NamedAcls,
        ids: &AccountIds,
    ) -> Result<(), (Box<[u8]>, u64, String)> {
        let mut unknown = None;
        let mut resolve = |list: &Option<TextAcl>| -> Result<Option<Acl>, String> {
            let Some(list) = list else { return Ok(None) };
            let found = list.resolve(ids, |name| {
                unknown.get_or_insert_with(|| String::from_utf8_lossy(name).into_owned());
            });
            match unknown.take() {
                Some(name) => Err(format!(
                    "its ACL names {name}, which is not in the etc/passwd or etc/group of this \
                     archive or of the layers below it: name those layers, or pack the archive \
                     with `bsdtar --acls`, which also writes the numbers"
                )),
                None => Ok(Some(found.ok_or(INVALID_ACL)?)),
            }
        };
        let [access, default] = &acls.lists;
        let lists = resolve(access).and_then(|access| Ok([access, resolve(default)?]));
        let lists = lists.map_err(|what| (acls.path.clone(), acls.offset, what))?;
        self.set_acls(lists);
        Ok(())
    }

    /// Returns whether this is a symbolic link that GNU tar creates last.
    fn is_deferred_link(&self) -> bool {
        matches!(&self.data, TarData::Target(target) if is_created_last(target))
    }

    pub(super) fn attr(&self) -> Attr {
        let (size, allocated) = match &self.data {
            TarData::File { size, pieces } => (*size, pieces.iter().map(Piece::len).sum()),
            TarData::Target(target) => (target.len() as u64, 0),
            _ => (0, 0),
        };
        Attr {
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            size,
            allocated,
            rdev: self.rdev,
            nlink: self.nlink,
            atime: self.mtime,
            mtime: self.mtime,
            ctime: self.mtime,
        }
    }
}

//! Changes and their totals.

use std::fmt;

use crate::image::view::ViewNode;

/// How a path changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It exists only in the new view.
    Added,
    /// It exists in both views and differs.
    Changed,
    /// It exists only in the old view.
    Deleted,
}

impl ChangeKind {
    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            ChangeKind::Added => "added",
            ChangeKind::Changed => "changed",
            ChangeKind::Deleted => "deleted",
        }
    }
}

/// A property in which two inodes differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Aspect {
    /// The file type. Content, target, device and mode are then not compared.
    Type,
    /// The content of a file.
    Content,
    /// The target of a symbolic link.
    Target,
    /// The numbers of a device node.
    Device,
    /// The permission, setuid, setgid and sticky bits. Not compared for symbolic links, whose mode
    /// has no effect.
    Mode,
    /// The owner.
    Owner,
    /// The group.
    Group,
    /// The extended attributes.
    Xattrs,
    /// The hard links of a file: their number, or which paths they are.
    Links,
    /// A directory hides the lower ones instead of merging with them. Entries that a lower layer
    /// gets later are then hidden as well.
    Replaced,
    /// The modification time, if it is compared.
    Mtime,
}

impl Aspect {
    /// All aspects, in output order.
    pub const ALL: [Aspect; 11] = [
        Aspect::Type,
        Aspect::Content,
        Aspect::Target,
        Aspect::Device,
        Aspect::Mode,
        Aspect::Owner,
        Aspect::Group,
        Aspect::Xattrs,
        Aspect::Links,
        Aspect::Replaced,
        Aspect::Mtime,
    ];

    /// Returns its name.
    pub fn word(self) -> &'static str {
        match self {
            Aspect::Type => "type",
            Aspect::Content => "content",
            Aspect::Target => "target",
            Aspect::Device => "device",
            Aspect::Mode => "mode",
            Aspect::Owner => "owner",
            Aspect::Group => "group",
            Aspect::Xattrs => "xattrs",
            Aspect::Links => "links",
            Aspect::Replaced => "replaced",
            Aspect::Mtime => "mtime",
        }
    }
}

/// A set of aspects. It is displayed as a comma-separated list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Aspects(u16);

impl Aspects {
    /// Adds an aspect.
    pub fn insert(&mut self, aspect: Aspect) {
        self.0 |= 1 << aspect as u8;
    }

    /// Whether the set contains `aspect`.
    pub fn contains(self, aspect: Aspect) -> bool {
        self.0 & (1 << aspect as u8) != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Iterates over the aspects in the order of [`Aspect::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |aspect| self.contains(*aspect))
    }
}

impl FromIterator<Aspect> for Aspects {
    fn from_iter<I: IntoIterator<Item = Aspect>>(aspects: I) -> Self {
        let mut set = Aspects::default();
        aspects.into_iter().for_each(|aspect| set.insert(aspect));
        set
    }
}

impl fmt::Display for Aspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, aspect) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(aspect.word())?;
        }
        Ok(())
    }
}

/// Totals of the entries in a directory that was deleted or replaced by a non-directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedEntries {
    /// Number of entries, of all types.
    pub entries: u64,
    /// Bytes of files, counted at each hard link.
    pub bytes: u64,
}

/// A path that differs between the views. At least one of `old` and `new` is present.
#[derive(Clone, Debug)]
pub struct PathChange {
    /// How it changed.
    pub kind: ChangeKind,
    /// The aspects that changed; empty unless `kind` is [`ChangeKind::Changed`].
    pub what: Aspects,
    /// The node in the old view. If the old view consists of the lowest layers of the new one, this
    /// is the node that the change hides.
    pub old: Option<ViewNode>,
    /// The node in the new view.
    pub new: Option<ViewNode>,
    /// The layer of the new view that provides or deletes the path. `None` for a path that no layer
    /// hides: the layer that had it is not in the new view.
    pub layer: Option<usize>,
    /// The former entries of a directory that no longer exists. Empty if `within_deleted`.
    pub removed: RemovedEntries,
    /// Whether a parent directory was deleted, whose own change includes this one in its totals.
    pub within_deleted: bool,
    /// For an added or changed file with several hard links: the first changed path of the same
    /// file, unless this is it.
    pub link: Option<Vec<u8>>,
}

impl PathChange {
    /// Returns the path from the root, without a leading slash.
    pub fn path(&self) -> &[u8] {
        self.new.as_ref().or(self.old.as_ref()).map_or(&[], |node| &node.path)
    }

    /// Returns the new node, or the old one if there is no new one.
    pub fn node(&self) -> Option<&ViewNode> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Returns the size in bytes of the old file.
    pub fn old_size(&self) -> Option<u64> {
        size(self.old.as_ref())
    }

    /// Returns the size in bytes of the new file.
    pub fn new_size(&self) -> Option<u64> {
        size(self.new.as_ref())
    }
}

fn size(node: Option<&ViewNode>) -> Option<u64> {
    node.filter(|node| node.is_file()).map(|node| node.attr.size)
}

/// Totals of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffTotals {
    /// Number of added entries.
    pub added: u64,
    /// Number of changed entries.
    pub changed: u64,
    /// Number of deleted entries, including those in deleted directories.
    pub deleted: u64,
    /// Bytes of added files and the new size of files whose content changed. A file with several
    /// hard links counts once.
    pub new_bytes: u64,
    /// Bytes of deleted files, counted at each hard link, and the old size of files whose content
    /// changed.
    pub old_bytes: u64,
}

impl DiffTotals {
    /// Adds one change.
    pub fn add(&mut self, change: &PathChange) {
        match change.kind {
            ChangeKind::Added => self.added += 1,
            ChangeKind::Changed => self.changed += 1,
            ChangeKind::Deleted if change.within_deleted => {}
            ChangeKind::Deleted => self.deleted += 1,
        }
        self.deleted += change.removed.entries;
        self.old_bytes = self.old_bytes.saturating_add(change.removed.bytes);
        let kept = change.kind == ChangeKind::Changed
            && !change.what.contains(Aspect::Content)
            && !change.what.contains(Aspect::Type);
        if kept || change.within_deleted {
            return;
        }
        self.old_bytes = self.old_bytes.saturating_add(change.old_size().unwrap_or(0));
        if change.link.is_none() {
            self.new_bytes = self.new_bytes.saturating_add(change.new_size().unwrap_or(0));
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added + self.changed + self.deleted == 0
    }
}

//! One change, and the sums of many.

use std::fmt;

use crate::look::Node;

/// How a name changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Only the new view has something there.
    Added,
    /// Both have something there, and it is not the same.
    Changed,
    /// Only the old view has something there.
    Deleted,
}

impl Kind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Added => "added",
            Kind::Changed => "changed",
            Kind::Deleted => "deleted",
        }
    }
}

/// What of an object changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Aspect {
    /// It is an object of another type: neither contents, targets, devices nor modes are compared.
    Type,
    /// The bytes of a file.
    Content,
    /// The target of a symbolic link.
    Target,
    /// The numbers of a device.
    Device,
    /// The permission bits, with setuid, setgid and sticky. Of symbolic links, which have none that
    /// matter, they are not compared.
    Mode,
    /// The owner.
    Owner,
    /// The group.
    Group,
    /// The extended attributes.
    Xattrs,
    /// How many names a file has, or which they are.
    Links,
    /// A directory that hides the one of the layers beneath, instead of adding to it: what those
    /// layers will have in there some day stays hidden too.
    Replaced,
    /// The time of the last change, if it was asked for.
    Mtime,
}

impl Aspect {
    /// All of them, in the order in which they are told.
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

    /// The word for it.
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

/// A set of aspects; it shows as their words, comma between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Aspects(u16);

impl Aspects {
    /// Adds one.
    pub fn insert(&mut self, aspect: Aspect) {
        self.0 |= 1 << aspect as u8;
    }

    /// Whether `aspect` is in it.
    pub fn contains(self, aspect: Aspect) -> bool {
        self.0 & (1 << aspect as u8) != 0
    }

    /// Whether there is none in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in it, in the order of [`Aspect::ALL`].
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

/// What there was beneath a directory that is no longer one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beneath {
    /// Names, of all types.
    pub entries: u64,
    /// Bytes of files, at each of their names.
    pub bytes: u64,
}

/// A name whose object is not the same in both views. At least one of `old` and `new` is there.
#[derive(Clone, Debug)]
pub struct Change {
    /// How it changed.
    pub kind: Kind,
    /// What changed; empty unless `kind` is [`Kind::Changed`].
    pub what: Aspects,
    /// What the old view has. Where the old view is the lowest layers of the new one, this is what
    /// the change hides.
    pub old: Option<Node>,
    /// What the new view has.
    pub new: Option<Node>,
    /// The layer of the new view from which it comes, or which deletes it. `None` for what is
    /// missing without any layer hiding it: the layer that had it is not in the new view.
    pub layer: Option<usize>,
    /// Of a directory that is no longer one: what was in it. Nothing if `within_deleted`.
    pub beneath: Beneath,
    /// Whether this lies in a directory that is no longer one, whose own change has counted it.
    pub within_deleted: bool,
    /// Of an added or changed file with several names: the first changed name of the same file,
    /// if this is not that.
    pub link: Option<Vec<u8>>,
}

impl Change {
    /// The path from the root, without a leading slash.
    pub fn path(&self) -> &[u8] {
        self.new.as_ref().or(self.old.as_ref()).map_or(&[], |node| &node.path)
    }

    /// The object that is there now, or was.
    pub fn node(&self) -> Option<&Node> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Bytes of the file before.
    pub fn old_size(&self) -> Option<u64> {
        size(self.old.as_ref())
    }

    /// Bytes of the file now.
    pub fn new_size(&self) -> Option<u64> {
        size(self.new.as_ref())
    }
}

fn size(node: Option<&Node>) -> Option<u64> {
    node.filter(|node| node.is_file()).map(|node| node.attr.size)
}

/// The sums of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Names that were added.
    pub added: u64,
    /// Names that changed.
    pub changed: u64,
    /// Names that were deleted, with all beneath deleted directories.
    pub deleted: u64,
    /// Bytes of files that are there now and were not: of added ones, and of those whose content
    /// changed. A file with several names counts once.
    pub new_bytes: u64,
    /// Bytes of files that were there and are no longer: of deleted ones, at each name, and of
    /// those whose content changed.
    pub old_bytes: u64,
}

impl Totals {
    /// Adds one change.
    pub fn add(&mut self, change: &Change) {
        match change.kind {
            Kind::Added => self.added += 1,
            Kind::Changed => self.changed += 1,
            Kind::Deleted if change.within_deleted => {}
            Kind::Deleted => self.deleted += 1,
        }
        self.deleted += change.beneath.entries;
        self.old_bytes = self.old_bytes.saturating_add(change.beneath.bytes);
        let kept = change.kind == Kind::Changed
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

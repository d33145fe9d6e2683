//! The reference model of a tree: objects and their names, without layers and copy-on-write. It is
//! built by merging layers as described in `overlayfs.rst`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fs_model::layer::{Layer, LayerEntry, LayerIno};
use fs_model::tree::{MknodArgs, RenameMode, SetAttr, XattrFlags};
use fs_model::{Device, FileType, FsError, Time};

use crate::layer::{Data, MemoryLayer};

mod lent;
mod revert;

/// Number of an object in the model.
pub(crate) type Id = usize;
pub(crate) const ROOT: Id = 0;

/// The object at a name, and the scratch entry that covers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) present: Option<Id>,
    pub(crate) scratch: Option<Id>,
}

impl Name {
    pub(crate) fn shown(self) -> Option<Id> {
        self.scratch.or(self.present)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) kind: FileType,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: Device,
    /// Number of names, including those in layers that other layers hide; not for directories.
    pub(crate) nlink: u32,
    /// `None` for the time of an operation. (The time of a directory is thus known if it was set
    /// explicitly or if the directory was not changed.)
    pub(crate) mtime: Option<Time>,
    pub(crate) atime: Option<Time>,
    pub(crate) content: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) names: BTreeMap<Vec<u8>, Name>,
    pub(crate) parent: Id,
    /// Whether a directory was not removed.
    pub(crate) alive: bool,
}

impl Object {
    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    pub(crate) fn shown(&self) -> impl Iterator<Item = (&Vec<u8>, Id)> {
        self.names.iter().filter_map(|(name, n)| Some((name, n.shown()?)))
    }
}

fn new_object(node: &MknodArgs<'_>, parent: Id) -> Object {
    Object {
        kind: node.kind,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        rdev: if node.kind.is_device() { node.rdev } else { Device::default() },
        nlink: 1,
        mtime: None,
        atime: None,
        content: Vec::new(),
        target: node.target.to_vec(),
        xattrs: BTreeMap::new(),
        names: BTreeMap::new(),
        parent,
        alive: true,
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) objects: Vec<Object>,
    /// The objects in the state of the layers.
    pub(crate) lower: Vec<Object>,
    pub(crate) xattrs: bool,
    /// Lent files that were not changed, their positions and the links to them.
    lent: BTreeMap<Id, Vec<(Id, Vec<u8>)>>,
    /// Files that a lent file took the place of, and that file.
    former: BTreeMap<Id, Id>,
}

impl Model {
    /// Merges `layers`, lowest first.
    pub(crate) fn of_layers(layers: &[MemoryLayer], xattrs: bool) -> Model {
        let mut root = new_object(&MknodArgs::directory(0o755, 0, 0), ROOT);
        (root.mtime, root.atime) = (Some(Time::from_secs(0)), Some(Time::from_secs(0)));
        let (lower, lent, former) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut model = Model { objects: vec![root], lower, xattrs, lent, former };
        for (index, layer) in layers.iter().enumerate() {
            let mut links = HashMap::new();
            // Of layers that do not describe their root, only the lowest one counts.
            if layer.describes_root || index == 0 {
                model.describe(ROOT, layer, layer.root());
            }
            model.lay(layer, layer.root(), ROOT, &mut links);
        }
        model.lower.clone_from(&model.objects);
        model
    }

    fn describe(&mut self, id: Id, layer: &MemoryLayer, ino: LayerIno) {
        let node = &layer.nodes[MemoryLayer::index(ino)];
        let object = &mut self.objects[id];
        object.kind = node.attr.kind;
        (object.mode, object.uid, object.gid) = (node.attr.mode, node.attr.uid, node.attr.gid);
        (object.rdev, object.nlink) = (node.attr.rdev, node.attr.nlink);
        (object.mtime, object.atime) = (Some(node.attr.mtime), Some(node.attr.atime));
        object.xattrs = node.xattrs.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
        match &node.data {
            Data::File { bytes, .. } => object.content.clone_from(bytes),
            Data::Target(target) => object.target.clone_from(target),
            Data::None | Data::Directory { .. } => {}
        }
    }

    fn lay(
        &mut self,
        layer: &MemoryLayer,
        ino: LayerIno,
        dir: Id,
        links: &mut HashMap<LayerIno, Id>,
    ) {
        if layer.is_opaque(ino).unwrap() {
            self.objects[dir].names.clear();
        }
        for (name, entry) in layer.entries(MemoryLayer::index(ino)) {
            let LayerEntry::Object { ino, kind } = *entry else {
                self.objects[dir].names.remove(name);
                continue;
            };
            let there = self.objects[dir].names.get(name).and_then(|n| n.present);
            let id = match (there, links.get(&ino)) {
                (_, Some(&id)) => id,
                (Some(id), _) if kind == FileType::Directory && self.objects[id].is_dir() => id,
                _ => {
                    self.objects.push(new_object(&MknodArgs::plain(kind, 0, 0, 0), dir));
                    self.objects.len() - 1
                }
            };
            links.insert(ino, id);
            self.describe(id, layer, ino);
            self.objects[dir].names.insert(name.clone(), Name { present: Some(id), scratch: None });
            if kind == FileType::Directory {
                self.lay(layer, ino, id, links);
            }
        }
    }

    pub(crate) fn nlink(&self, id: Id) -> u32 {
        let object = &self.objects[id];
        match (object.is_dir(), object.alive) {
            (false, _) => object.nlink,
            (true, false) => 0,
            (true, true) => {
                2 + object.shown().filter(|(_, id)| self.objects[*id].is_dir()).count() as u32
            }
        }
    }

    pub(crate) fn size(&self, id: Id) -> u64 {
        let object = &self.objects[id];
        match object.kind {
            FileType::Directory => 4096,
            FileType::Symlink => object.target.len() as u64,
            _ => object.content.len() as u64,
        }
    }

    fn check_name(name: &[u8]) -> Result<(), FsError> {
        match name {
            _ if name.len() > 255 => Err(FsError::NameTooLong),
            b"" | b"." | b".." => Err(FsError::Invalid),
            _ if name.iter().any(|b| matches!(b, b'/' | 0)) => Err(FsError::Invalid),
            _ => Ok(()),
        }
    }

    fn check_dir(&self, dir: Id) -> Result<(), FsError> {
        if self.objects[dir].is_dir() { Ok(()) } else { Err(FsError::NotADirectory) }
    }

    fn check_alive(&self, dir: Id) -> Result<(), FsError> {
        self.check_dir(dir)?;
        if self.objects[dir].alive { Ok(()) } else { Err(FsError::NotFound) }
    }

    fn find(&self, dir: Id, name: &[u8]) -> Result<Option<Id>, FsError> {
        self.check_dir(dir)?;
        Self::check_name(name)?;
        Ok(self.objects[dir].names.get(name).and_then(|n| n.shown()))
    }

    pub(crate) fn lookup(&self, dir: Id, name: &[u8]) -> Result<Id, FsError> {
        self.find(dir, name)?.ok_or(FsError::NotFound)
    }

    fn check_free(&self, dir: Id, name: &[u8]) -> Result<(), FsError> {
        Self::check_name(name)?;
        self.check_alive(dir)?;
        if self.find(dir, name)?.is_some() { Err(FsError::Exists) } else { Ok(()) }
    }

    fn create(&mut self, dir: Id, node: &MknodArgs<'_>) -> Result<Id, FsError> {
        match node.kind {
            FileType::CharDevice if node.rdev == Device::default() => {
                return Err(FsError::NotPermitted);
            }
            FileType::Symlink if node.target.is_empty() => return Err(FsError::NotFound),
            FileType::Symlink if node.target.len() > 4095 => return Err(FsError::NameTooLong),
            _ => {}
        }
        let mut object = new_object(node, dir);
        let above = &self.objects[dir];
        if above.mode & 0o2000 != 0 {
            object.gid = above.gid;
            object.mode |= if object.is_dir() { 0o2000 } else { 0 };
        }
        self.objects.push(object);
        Ok(self.objects.len() - 1)
    }

    fn set(&mut self, dir: Id, name: &[u8], present: Option<Id>) {
        match present {
            Some(_) => {
                self.objects[dir].names.insert(name.to_vec(), Name { present, scratch: None })
            }
            None => self.objects[dir].names.remove(name),
        };
        self.objects[dir].mtime = None;
    }

    pub(crate) fn mknod(
        &mut self,
        dir: Id,
        name: &[u8],
        node: &MknodArgs<'_>,
    ) -> Result<Id, FsError> {
        self.check_free(dir, name)?;
        let id = self.create(dir, node)?;
        self.set(dir, name, Some(id));
        Ok(id)
    }

    pub(crate) fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<Id, FsError> {
        self.check_free(dir, name)?;
        if self.loan(id).is_some_and(|(_, _, covered)| covered.is_none()) {
            self.objects[id].nlink += 1;
            let present = self.present(dir, name);
            let link = Name { present, scratch: Some(id) };
            self.objects[dir].names.insert(name.to_vec(), link);
            self.lent.entry(id).or_default().push((dir, name.to_vec()));
            return Ok(id);
        }
        self.check_take_over(id)?;
        match &self.objects[id] {
            object if object.is_dir() => return Err(FsError::NotPermitted),
            object if object.nlink == 0 => return Err(FsError::NotFound),
            _ => {}
        }
        self.objects[id].nlink += 1;
        self.set(dir, name, Some(id));
        Ok(id)
    }

    fn drop_name(&mut self, id: Id) {
        let object = &mut self.objects[id];
        if object.is_dir() {
            object.alive = false;
            object.names.clear();
        } else {
            object.nlink = object.nlink.saturating_sub(1);
        }
    }

    fn is_empty(&self, id: Id) -> bool {
        self.objects[id].shown().next().is_none()
    }

    /// Returns the object that a scratch entry covers.
    fn covered(&self, dir: Id, name: &[u8]) -> Result<Option<Id>, FsError> {
        match self.objects[dir].names.get(name) {
            Some(Name { present: Some(id), scratch: Some(_) }) => {
                if self.objects[*id].is_dir() && !self.is_empty(*id) {
                    return Err(FsError::Busy);
                }
                Ok(Some(*id))
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn remove(&mut self, dir: Id, name: &[u8], directory: bool) -> Result<(), FsError> {
        let id = self.lookup(dir, name)?;
        match (directory, self.objects[id].is_dir()) {
            (false, true) => return Err(FsError::IsADirectory),
            (true, false) => return Err(FsError::NotADirectory),
            (true, true) if !self.is_empty(id) => return Err(FsError::NotEmpty),
            _ => {}
        }
        let covered = self.covered(dir, name)?;
        self.set(dir, name, None);
        [Some(id), covered].into_iter().flatten().for_each(|id| self.drop_name(id));
        Ok(())
    }

    fn check_not_below(&self, moving: Id, mut into: Id) -> Result<(), FsError> {
        if !self.objects[moving].is_dir() {
            return Ok(());
        }
        loop {
            if into == moving {
                return Err(FsError::Invalid);
            }
            if into == ROOT {
                return Ok(());
            }
            into = self.objects[into].parent;
        }
    }

    pub(crate) fn rename(
        &mut self,
        dir: Id,
        name: &[u8],
        to_dir: Id,
        to_name: &[u8],
        mode: RenameMode,
    ) -> Result<(), FsError> {
        Self::check_name(to_name)?;
        let id = self.lookup(dir, name)?;
        self.check_alive(to_dir)?;
        let target = self.find(to_dir, to_name)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            (RenameMode::Exchange, Some(target)) => self.check_take_over(target)?,
            _ => {}
        }
        self.check_take_over(id)?;
        self.check_not_below(id, to_dir)?;
        if mode == RenameMode::Exchange {
            self.check_not_below(target.unwrap(), dir)?;
        }
        if let Some(target) = target {
            if target == id {
                return Ok(());
            }
            let is_dir = |id: Id| self.objects[id].is_dir();
            if mode == RenameMode::Replace {
                match (is_dir(id), is_dir(target)) {
                    (true, true) if !self.is_empty(target) => return Err(FsError::NotEmpty),
                    (true, false) => return Err(FsError::NotADirectory),
                    (false, true) => return Err(FsError::IsADirectory),
                    _ => {}
                }
            }
        }
        let covered = [self.covered(dir, name)?, self.covered(to_dir, to_name)?];
        if mode != RenameMode::Exchange && covered[0] == Some(to_dir) {
            return Err(FsError::Busy);
        }
        let is_scratch = self.objects[dir].names.get(name).is_some_and(|n| n.scratch.is_some());
        // The object that a scratch file covers is moved with it. A scratch file that is not lent
        // and covers nothing becomes an ordinary one.
        let along = is_scratch
            && (covered[0].is_some() || self.loan(id).is_some())
            && mode != RenameMode::Exchange
            && [Some(id), covered[0]].into_iter().flatten().all(|id| !self.objects[id].is_dir());
        self.set(dir, name, target.filter(|_| mode == RenameMode::Exchange));
        self.set(to_dir, to_name, Some(id));
        let from = (dir, name.to_vec());
        let mut positions = self.lent.get_mut(&id).into_iter().flatten();
        if let Some(position) = positions.find(|position| **position == from) {
            *position = (to_dir, to_name.to_vec());
        }
        if along {
            let name = Name { present: covered[0], scratch: Some(id) };
            self.objects[to_dir].names.insert(to_name.to_vec(), name);
        }
        self.objects[id].parent = to_dir;
        match target {
            Some(target) if mode == RenameMode::Exchange => self.objects[target].parent = dir,
            Some(target) => self.drop_name(target),
            None => {}
        }
        let gone = if along { &covered[1..] } else { &covered[..] };
        gone.iter().flatten().for_each(|id| self.drop_name(*id));
        Ok(())
    }

    pub(crate) fn add_scratch(
        &mut self,
        dir: Id,
        name: &[u8],
        node: &MknodArgs<'_>,
    ) -> Result<Id, FsError> {
        Self::check_name(name)?;
        self.check_alive(dir)?;
        let replaced = self.objects[dir].names.get(name).and_then(|n| n.scratch);
        if replaced.is_some_and(|id| self.objects[id].is_dir() && !self.is_empty(id)) {
            return Err(FsError::NotEmpty);
        }
        let id = self.create(dir, node)?;
        if let Some(replaced) = replaced {
            self.drop_name(replaced);
        }
        self.objects[dir].names.entry(name.to_vec()).or_default().scratch = Some(id);
        Ok(id)
    }

    pub(crate) fn check_file(&self, id: Id) -> Result<(), FsError> {
        match self.objects[id].kind {
            FileType::Regular => Ok(()),
            FileType::Directory => Err(FsError::IsADirectory),
            _ => Err(FsError::Invalid),
        }
    }

    pub(crate) fn read(&self, id: Id, offset: u64, len: usize) -> Result<&[u8], FsError> {
        self.check_file(id)?;
        let content = &self.objects[id].content;
        let from = content.len().min(offset as usize);
        Ok(&content[from..content.len().min(from + len)])
    }

    /// Checks a write whose length may still be limited by the available memory.
    pub(crate) fn check_write(&self, id: Id) -> Result<(), FsError> {
        self.check_take_over(id)?;
        self.check_file(id)
    }

    pub(crate) fn write(&mut self, id: Id, offset: u64, data: &[u8]) {
        let object = &mut self.objects[id];
        object.mtime = None;
        if data.is_empty() {
            return;
        }
        let (from, to) = (offset as usize, offset as usize + data.len());
        if object.content.len() < to {
            object.content.resize(to, 0);
        }
        object.content[from..to].copy_from_slice(data);
    }

    pub(crate) fn zero(&mut self, id: Id, from: u64, to: u64, grow: bool) -> Result<(), FsError> {
        self.check_write(id)?;
        let object = &mut self.objects[id];
        object.mtime = None;
        if grow && object.content.len() < to as usize {
            object.content.resize(to as usize, 0);
        }
        let len = object.content.len();
        object.content[len.min(from as usize)..len.min(to as usize)].fill(0);
        Ok(())
    }

    pub(crate) fn extend(&mut self, id: Id, end: u64) -> Result<(), FsError> {
        self.check_write(id)?;
        let object = &mut self.objects[id];
        object.mtime = None;
        let len = object.content.len().max(end as usize);
        object.content.resize(len, 0);
        Ok(())
    }

    pub(crate) fn set_attr(&mut self, id: Id, set: &SetAttr) -> Result<(), FsError> {
        if set.size.is_some() {
            self.check_take_over(id)?;
            self.check_file(id)?;
        } else if let Some((_, _, Some(covered))) = self.loan(id) {
            if self.objects[covered].kind != FileType::Regular {
                let object = &self.objects[id];
                let changes = set.mode.is_some_and(|mode| mode != object.mode)
                    || set.uid.is_some_and(|uid| uid != object.uid)
                    || set.gid.is_some_and(|gid| gid != object.gid)
                    || set.mtime.is_some_and(|time| Some(time) != object.mtime)
                    || set.atime.is_some_and(|time| Some(time) != object.atime);
                return if changes { Err(FsError::Busy) } else { Ok(()) };
            }
            self.set_attr(covered, set)?;
        }
        let object = &mut self.objects[id];
        if let Some(size) = set.size {
            object.content.resize(size as usize, 0);
            object.mtime = None;
        }
        object.mode = set.mode.unwrap_or(object.mode);
        object.uid = set.uid.unwrap_or(object.uid);
        object.gid = set.gid.unwrap_or(object.gid);
        object.mtime = set.mtime.or(object.mtime);
        object.atime = set.atime.or(object.atime);
        Ok(())
    }

    pub(crate) fn set_xattr(
        &mut self,
        id: Id,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), FsError> {
        self.check_take_over(id)?;
        let xattrs = &mut self.objects[id].xattrs;
        match (flags, xattrs.contains_key(name)) {
            (XattrFlags::Create, true) => return Err(FsError::Exists),
            (XattrFlags::Replace, false) => return Err(FsError::NoData),
            _ => xattrs.insert(name.to_vec(), value.to_vec()),
        };
        Ok(())
    }

    pub(crate) fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<(), FsError> {
        self.check_take_over(id)?;
        self.objects[id].xattrs.remove(name).map(|_| ()).ok_or(FsError::NoData)
    }

    // ---- revert
}

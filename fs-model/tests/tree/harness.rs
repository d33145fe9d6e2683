//! Runs operations on a tree and on the reference model side by side.

use std::fmt::Debug;
use std::sync::Arc;

use fs_model::delta::Contents;
use fs_model::layer::Layer;
use fs_model::tree::{Entry, MknodArgs, RenameMode, SetAttr, Tree, TreeOptions, XattrSupport};
use fs_model::{Device, FileType, FsError, Ino};

use crate::compare::{self, Numbers, read_all, same_variant};
use crate::delta;
use crate::generate::content;
use crate::layer::MemoryLayer;
use crate::listing::Listing;
use crate::operations::{Held, Node, Operation};
use crate::reference::{Id, Model, ROOT};
use crate::replay;

/// Maximum number of referenced objects.
const MAX_HELD: usize = 16;

pub(crate) fn tree_of(layers: &[MemoryLayer], limit: u64, xattrs: bool) -> Tree {
    let layers = layers.iter().map(|l| Arc::new(l.clone()) as Arc<dyn Layer>).collect();
    let xattrs = if xattrs { XattrSupport::All } else { XattrSupport::None };
    Tree::new(layers, TreeOptions { upper_limit: Some(limit), xattrs }).unwrap()
}

pub(crate) struct Run {
    pub(crate) tree: Tree,
    pub(crate) model: Model,
    pub(crate) layers: Vec<MemoryLayer>,
    numbers: Numbers,
    /// Whether the operation writes at an offset, which keeps the content of a lent file.
    keeps_lent: bool,
    /// Objects to which the operation adds a name.
    renamed: Vec<Id>,
    /// A directory that is listed in several parts.
    listing: Option<Listing>,
    /// Referenced objects. The first one is the root, without a reference.
    held: Vec<(Id, Ino)>,
}

fn new_node(node: &Node) -> MknodArgs<'static> {
    let Node { kind, mode, owner, .. } = *node;
    match kind {
        FileType::Symlink => MknodArgs::symlink(b"where/to", owner, owner),
        FileType::CharDevice | FileType::BlockDevice => {
            // Character device 0:0 means a whiteout and is rejected.
            let rdev = Device { major: 0, minor: owner };
            MknodArgs::device(kind, mode, owner, owner, rdev)
        }
        _ => MknodArgs::plain(kind, mode, owner, owner),
    }
}

impl Run {
    pub(crate) fn new(layers: Vec<MemoryLayer>, limit: u64, xattrs: bool) -> Run {
        Run {
            tree: tree_of(&layers, limit, xattrs),
            model: Model::of_layers(&layers, xattrs),
            layers,
            numbers: Numbers::default(),
            keeps_lent: false,
            renamed: Vec::new(),
            listing: None,
            held: vec![(ROOT, Ino::ROOT)],
        }
    }

    pub(crate) fn compare(&mut self, step: usize) {
        compare::everything(&self.tree, &self.model, &mut self.numbers, step);
        for &(id, ino) in &self.held {
            let id = self.model.current(id);
            compare::object(&self.tree, &self.model, id, ino, "held");
        }
    }

    pub(crate) fn check_delta(&self, minimal: bool) {
        delta::check(&self.tree, &self.model, &self.layers, minimal);
    }

    /// Checks that replaying the changes on the same layers results in the same delta.
    pub(crate) fn check_replay(&self) {
        replay::check(&self.tree, &tree_of(&self.layers, u64::MAX, self.model.xattrs));
    }

    /// Drops all references.
    pub(crate) fn forget_all(&mut self) {
        for (_, ino) in self.held.drain(1..) {
            self.tree.forget(ino, 1);
        }
    }

    fn held(&self, held: Held) -> (Id, Ino) {
        let (id, ino) = self.held[held % self.held.len()];
        (self.model.current(id), ino)
    }

    /// Checks that both results agree: success, or the same error. The tree may also run out of
    /// space, and then the model does not change. Returns the successful results.
    fn agree<T: Debug, U: Debug>(
        &mut self,
        tree: Result<T, FsError>,
        model: impl FnOnce(&mut Model) -> Result<U, FsError>,
    ) -> Option<(T, U)> {
        self.follow_loans();
        if let Err(FsError::NoSpace { .. }) = tree {
            self.compare(100);
            return None;
        }
        match (tree, model(&mut self.model)) {
            (Ok(tree), Ok(model)) => Some((tree, model)),
            (Err(a), Err(b)) if same_variant(&a, &b) => None,
            (tree, model) => panic!("the tree returned {tree:?}, the model {model:?}"),
        }
    }

    /// Takes over the lent files that the operation was about to change, even if it failed
    /// afterwards.
    fn follow_loans(&mut self) {
        for (id, dir, name) in self.model.loans() {
            let dir = if dir == ROOT { Some(Ino::ROOT) } else { self.numbers.ino_of(dir) };
            let (Some(ino), Some(dir)) = (self.numbers.ino_of(id), dir) else { continue };
            let there = self.tree.lookup(dir, &name).ok();
            if let Some(entry) = there {
                self.tree.forget(entry.ino, 1);
            }
            // A lent file that lost its name may still have links.
            let is_there = there.is_some_and(|entry| entry.ino == ino);
            if (is_there || self.renamed.contains(&id)) && !self.tree.is_lent(ino) {
                self.model.take_over(id, self.keeps_lent);
            }
        }
    }

    fn hold(&mut self, found: Option<(Entry, Id)>) {
        let Some((entry, id)) = found else { return };
        self.numbers.see(id, entry.ino);
        compare::object(&self.tree, &self.model, id, entry.ino, "found");
        if self.held.len() < MAX_HELD {
            self.held.push((id, entry.ino));
        } else {
            self.tree.forget(entry.ino, 1);
        }
    }

    fn write(&mut self, held: Held, offset: Option<u64>, len: u64, fill: u8) {
        let (id, ino) = self.held(held);
        let data = content(len as usize, fill);
        self.keeps_lent = offset.is_some();
        let done = match offset {
            Some(offset) => self.tree.write(ino, offset, &data),
            None => self.tree.append(ino, &data),
        };
        if let Some((done, ())) = self.agree(done, |model| model.check_write(id)) {
            assert!(done == data.len() || self.is_limited() && done > 0);
            let at = offset.unwrap_or(self.model.size(id));
            self.model.write(id, at, &data[..done]);
        }
    }

    fn is_limited(&self) -> bool {
        self.tree.usage().limit < u64::MAX
    }

    pub(crate) fn step(&mut self, operation: &Operation) {
        self.keeps_lent = false;
        self.renamed.clear();
        use Operation::{
            Append, CheckDelta, Compare, Copy, EndLoan, Extend, Forget, LayScratch, Lend, Link,
            ListPart, Lookup, Make, NextData, OpenListing, Read, ReadLink, RemoveXattr, Rename,
            Revert, Rewrite, Rmdir, SeekListing, SetXattr, Truncate, Unlink, Write, Zero,
        };
        match operation {
            Lookup(dir, name) => {
                let (dir, ino) = self.held(*dir);
                let found = self.tree.lookup(ino, &name.0);
                let found = self.agree(found, |model| model.lookup(dir, &name.0));
                self.hold(found);
            }
            Forget(held) => {
                let at = held % self.held.len();
                if at > 0 {
                    let (id, ino) = self.held.swap_remove(at);
                    // Open files are referenced.
                    self.listing.take_if(|listing| listing.is_of(id));
                    self.tree.forget(ino, 1);
                }
            }
            Make(dir, name, node) => {
                let (dir, ino) = self.held(*dir);
                let node = new_node(node);
                let made = self.tree.mknod(ino, &name.0, &node);
                let made = self.agree(made, |model| model.mknod(dir, &name.0, &node));
                self.hold(made);
            }
            LayScratch(dir, name, node) => {
                let (dir, ino) = self.held(*dir);
                let node = new_node(node);
                self.end_loan_at((dir, ino), &name.0);
                let made = self.tree.add_scratch(ino, &name.0, &node);
                let made = self.agree(made, |model| model.add_scratch(dir, &name.0, &node));
                self.hold(made);
            }
            Lend(dir, name, len, fill) => {
                let (dir, ino) = self.held(*dir);
                let data = content((*len).min(70_000) as usize, *fill);
                self.end_loan_at((dir, ino), &name.0);
                let made = self.tree.lend(ino, &name.0, 0o644, &data, lent_end(data.len() as u64));
                let made = self.agree(made, |model| model.lend(dir, &name.0, 0o644, &data));
                if made.is_some() {
                    let found = self.tree.lookup(ino, &name.0);
                    let found = found.map(|entry| (entry, made.unwrap().1));
                    self.hold(Some(found.unwrap()));
                }
            }
            EndLoan(dir, name, object) => {
                let ((dir, ino), (id, of)) = (self.held(*dir), self.held(*object));
                if self.model.loans().contains(&(id, dir, name.0.clone())) {
                    assert!(self.tree.end_loan(ino, &name.0, of).unwrap());
                    assert!(self.model.end_loan(dir, &name.0, id));
                }
            }
            Link(object, dir, name) => {
                let ((object, of), (dir, ino)) = (self.held(*object), self.held(*dir));
                let made = self.tree.link(of, ino, &name.0);
                let made = self.agree(made, |model| model.link(object, dir, &name.0));
                self.hold(made);
            }
            Unlink(dir, name) => {
                let (dir, ino) = self.held(*dir);
                let done = self.tree.unlink(ino, &name.0);
                assert!(!matches!(done, Err(FsError::NoSpace { .. })));
                self.agree(done, |model| model.remove(dir, &name.0, false));
            }
            Rmdir(dir, name) => {
                let (dir, ino) = self.held(*dir);
                let done = self.tree.rmdir(ino, &name.0);
                assert!(!matches!(done, Err(FsError::NoSpace { .. })));
                self.agree(done, |model| model.remove(dir, &name.0, true));
            }
            Rename(dir, name, to_dir, to_name, mode) => {
                let ((dir, ino), (to_dir, to_ino)) = (self.held(*dir), self.held(*to_dir));
                self.renamed.extend(self.model.lookup(dir, &name.0).ok());
                if *mode == RenameMode::Exchange {
                    self.renamed.extend(self.model.lookup(to_dir, &to_name.0).ok());
                }
                let done = self.tree.rename(ino, &name.0, to_ino, &to_name.0, *mode);
                self.agree(done, |model| model.rename(dir, &name.0, to_dir, &to_name.0, *mode));
            }
            Revert(dir, name) => {
                let (dir, ino) = self.held(*dir);
                let done = self.tree.revert(ino, &name.0);
                assert!(!matches!(done, Err(FsError::NoSpace { .. })));
                let several = self.agree(done, |model| model.revert(dir, &name.0));
                for id in several.into_iter().flat_map(|(_, several)| several) {
                    self.accept_from_tree(id);
                }
            }
            Read(object, offset, len) => {
                let (id, ino) = self.held(*object);
                let mut buf = vec![0xee; *len as usize];
                let read = self.tree.read(ino, *offset, &mut buf).map(|n| buf[..n].to_vec());
                let read =
                    self.agree(read, |m| m.read(id, *offset, *len as usize).map(<[u8]>::to_vec));
                if let Some((tree, model)) = read {
                    assert!(tree == model, "content read");
                }
            }
            Write(object, offset, len, fill) => self.write(*object, Some(*offset), *len, *fill),
            Append(object, len, fill) => self.write(*object, None, (*len).min(70_000), *fill),
            Truncate(object, size) => {
                let set = SetAttr { size: Some(*size), ..SetAttr::default() };
                self.set_attr(*object, set);
            }
            Zero(object, from, len, grow) => {
                let ((id, ino), to) = (self.held(*object), from + len);
                let done = self.tree.zero(ino, *from..to, *grow);
                self.agree(done, |model| model.zero(id, *from, to, *grow));
            }
            Extend(object, end) => {
                let (id, ino) = self.held(*object);
                let done = self.tree.extend(ino, *end);
                self.agree(done, |model| model.extend(id, *end));
            }
            Copy(from, at, to, to_at, len) => self.copy((*from, *at), (*to, *to_at), *len),
            NextData(object, offset) => self.next_data(*object, *offset),
            ReadLink(object) => {
                let (id, ino) = self.held(*object);
                compare::object(&self.tree, &self.model, id, ino, "read link");
            }
            Operation::SetAttr(object, mode, owner, atime, mtime) => {
                let owner = *owner;
                let set = SetAttr {
                    mode: *mode,
                    uid: owner,
                    gid: owner,
                    atime: *atime,
                    mtime: *mtime,
                    ..Default::default()
                };
                self.set_attr(*object, set);
            }
            SetXattr(object, name, value, flags) => {
                let (id, ino) = self.held(*object);
                let (name, value) = ([b"user.x", b"user.y"][*name as usize], [*value]);
                let done = self.tree.set_xattr(ino, name, &value, *flags);
                self.agree(done, |model| model.set_xattr(id, name, &value, *flags));
            }
            RemoveXattr(object, name) => {
                let (id, ino) = self.held(*object);
                let name = [b"user.x", b"user.y"][*name as usize];
                let done = self.tree.remove_xattr(ino, name);
                assert!(!matches!(done, Err(FsError::NoSpace { .. })));
                self.agree(done, |model| model.remove_xattr(id, name));
            }
            Compare(step) => self.compare(*step),
            CheckDelta => self.check_delta(false),
            Rewrite(dir, name) => self.rewrite(*dir, &name.0),
            OpenListing(dir) => {
                let (id, ino) = self.held(*dir);
                self.listing =
                    self.model.objects[id].is_dir().then(|| Listing::new(id, ino, &self.model));
            }
            ListPart(count) => {
                if let Some(listing) = &mut self.listing {
                    listing.read(&self.tree, &self.model, *count);
                }
            }
            SeekListing(to) => {
                if let Some(listing) = &mut self.listing {
                    listing.seek(*to);
                }
            }
        }
        if let Some(listing) = &mut self.listing {
            listing.notice(&self.model);
        }
        if let Err(wrong) = self.tree.check_invariants() {
            panic!("{wrong}");
        }
    }

    /// Ends the loan at a name where another scratch entry is about to be added.
    fn end_loan_at(&mut self, (dir, dir_ino): (Id, Ino), name: &[u8]) {
        let loan = self.model.loans().into_iter().find(|(_, d, n)| *d == dir && n == name);
        let Some((id, ..)) = loan else { return };
        let ino = self.numbers.ino_of(id).unwrap();
        assert!(self.tree.end_loan(dir_ino, name, ino).unwrap());
        assert!(self.model.end_loan(dir, name, id));
    }

    fn set_attr(&mut self, object: Held, set: SetAttr) {
        let (id, ino) = self.held(object);
        let lent = self.model.loans().iter().any(|(lent, ..)| *lent == id);
        let lent = lent.then(|| self.model.size(id));
        // A size within the lent lines is one of the image's own file.
        self.keeps_lent = lent
            .zip(set.size)
            .is_some_and(|(lent, size)| size > 0 && size >= lent_end(lent) && size <= lent + 4096);
        let done = self.tree.set_attr(ino, &set);
        let done = self.agree(done, |model| model.set_attr(id, &set));
        self.keeps_lent = false;
        if done.is_some() {
            compare::object(&self.tree, &self.model, id, ino, "set");
        }
    }

    /// Replaces a file by an equal one, if there is enough space.
    fn rewrite(&mut self, dir: Held, name: &[u8]) {
        const NEW: &[u8] = b"new";
        let (dir, ino) = self.held(dir);
        let Ok(old) = self.model.lookup(dir, name) else { return };
        let object = &self.model.objects[old];
        if self.is_limited() || object.kind != FileType::Regular {
            return;
        }
        let set = SetAttr {
            mode: Some(object.mode),
            uid: Some(object.uid),
            gid: Some(object.gid),
            mtime: object.mtime,
            ..SetAttr::default()
        };
        let content = object.content.clone();
        let node = MknodArgs::file(0o600, 0, 0);
        let made = self.tree.mknod(ino, NEW, &node);
        let made = self.agree(made, |model| model.mknod(dir, NEW, &node));
        let Some((entry, id)) = made else { return };
        self.tree.write(entry.ino, 0, &content).unwrap();
        self.model.write(id, 0, &content);
        self.tree.set_attr(entry.ino, &set).unwrap();
        self.model.set_attr(id, &set).unwrap();
        let done = self.tree.rename(ino, NEW, ino, name, RenameMode::Replace);
        self.agree(done, |model| model.rename(dir, NEW, dir, name, RenameMode::Replace));
        self.tree.forget(entry.ino, 1);
    }

    fn copy(&mut self, (from, at): (Held, u64), (to, to_at): (Held, u64), len: u64) {
        let ((from, from_ino), (to, to_ino)) = (self.held(from), self.held(to));
        self.keeps_lent = from != to;
        let done = self.tree.copy_range(from_ino, at, to_ino, to_at, len);
        let copied = self.agree(done, |model| {
            if from == to && at.abs_diff(to_at) < len {
                return Err(FsError::Invalid);
            }
            if len == 0 {
                return Ok(Vec::new());
            }
            if from == to {
                model.check_write(to)?;
            }
            let data = model.read(from, at, len as usize)?.to_vec();
            if !data.is_empty() {
                model.check_write(to)?;
            }
            Ok(data)
        });
        if let Some((done, data)) = copied {
            assert!(done == data.len() as u64 || self.is_limited());
            if done > 0 {
                self.model.write(to, to_at, &data[..done as usize]);
            }
        }
    }

    /// Checks that holes contain only zeros and that all data is found.
    fn next_data(&mut self, object: Held, offset: u64) {
        let (id, ino) = self.held(object);
        let size = self.model.size(id);
        let is_file = self.model.objects[id].kind == FileType::Regular;
        let first = self.tree.next_data(ino, offset);
        if !is_file || offset >= size {
            self.agree(first, |model| {
                model.check_file(id)?;
                Err::<(), _>(FsError::NoSuchOffset)
            });
            return;
        }
        let content = &self.model.objects[id].content;
        let (mut at, mut next) = (offset, first.unwrap());
        loop {
            let end = next.as_ref().map_or(size, |data| data.start.min(size));
            assert!(end >= at, "data before {at}");
            assert!(content[at as usize..end as usize].iter().all(|&b| b == 0), "data in a hole");
            let Some(data) = next else { break };
            assert!(data.end > data.start && data.end <= size, "{data:?} of {size}");
            at = data.end;
            if at >= size {
                break;
            }
            next = self.tree.next_data(ino, at).unwrap();
        }
    }

    /// Copies the tree's state of an object to the model.
    fn accept_from_tree(&mut self, id: Id) {
        let Some(ino) = self.numbers.ino_of(id) else { return };
        let attr = self.tree.attr(ino).unwrap();
        let object = &mut self.model.objects[id];
        (object.mode, object.uid, object.gid) = (attr.mode, attr.uid, attr.gid);
        (object.mtime, object.atime) = (Some(attr.mtime), Some(attr.atime));
        if object.kind == FileType::Regular {
            object.content = read_all(&self.tree, ino, attr.size as usize);
        }
        let xattrs = Contents::xattrs(&self.tree, ino).unwrap();
        object.xattrs = xattrs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
    }
}

/// Returns the end of the lent lines in a lent content of this size.
fn lent_end(size: u64) -> u64 {
    size / 2
}

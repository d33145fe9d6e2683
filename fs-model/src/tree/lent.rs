//! Lent files: scratch files whose changes apply to the image.
//!
//! A sandbox lends a root files of its host, such as `resolv.conf`. Programs read and also change
//! them, as they would on a machine. Such a change is meant for the image.
//!
//! Invariants:
//! - A lent file shows the sandbox's content and is in no delta, like any scratch entry.
//! - The first change of its content ends the loan: the inode becomes the image's own file, with
//!   the content and attributes that were covered, before the change is made. If nothing was
//!   covered, it becomes an empty file with the attributes of the lent file. A write at an offset,
//!   and a size at or after the end of the lent lines, keep the lent content instead, because the
//!   program has read that content and the offset refers to it. All links to a lent file become
//!   names of the image's own file.
//! - Programs may still refer to the file that was covered, by a descriptor or a bind mount. Its
//!   number then stands for the image's own file until its last reference is gone.
//! - A change of mode, owner or times is also made to the covered file, and the loan continues. If
//!   nothing is covered, only setting the times to the current time ends the loan: programs change
//!   the attributes of all files that they find.
//! - Creating a file at the name of a lent file that covers nothing ends the loan, and the file has
//!   the attributes that the program asks for ([`Tree::create_at_stand_in`]).
//! - Removing, replacing or renaming a lent file applies to the covered file. Linking to a lent
//!   file ends the loan; if nothing is covered, the link is a scratch entry instead, because dpkg
//!   links a file before it replaces it.
//! - A lent file covers a regular file, a symbolic link or nothing. Operations that cannot be
//!   passed on to a symbolic link or to a file with several names fail with [`FsError::Busy`].

use std::sync::Arc;

use super::SetAttr;
use super::dir::{Covered, EntryTarget, Scratch, Slot};
use super::inode::{UpperBody, UpperData, UpperInode, XattrMap};
use super::namespace::{MknodArgs, check_name, new_inode};
use super::{Entry, Ino, Tree, TreeState};
use crate::attr::{FileType, Time};
use crate::error::FsError;
use crate::stack::LowerEntry;

/// The content that a lent file has after it becomes the image's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentFrom {
    /// The content of the covered file.
    Covered,
    /// The content of the lent file.
    Lent,
}

/// A directory and a name in it.
type LentPosition = (Ino, Box<[u8]>);

/// A size that is as many bytes beyond the end of a lent file is not computed from its own size.
const MAX_GROWTH: u64 = 4096;

/// The last known positions of a lent file: where it was lent, and the links that programs made to
/// it where it covers nothing. All of them are scratch entries. Some may have been removed or
/// replaced since.
#[derive(Debug)]
pub(super) struct Loan {
    positions: Vec<LentPosition>,
    /// The offset in the content at which the lent lines end.
    lent_end: u64,
}

impl Tree {
    /// Lends a file with `content` at `name`, over a regular file, a symbolic link or nothing. It
    /// takes the attributes of a covered file, and is executable if `mode` is. The content before
    /// `lent_end` contains lines that the covered file does not have.
    ///
    /// # Errors
    /// [`FsError::Busy`] over any other object or over a scratch entry, and those of
    /// [`Tree::mknod`] except [`FsError::Exists`].
    pub fn lend(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        content: &[u8],
        lent_end: u64,
    ) -> Result<Ino, FsError> {
        let mut node = MknodArgs::file(mode, 0, 0);
        // A file that is compared with the lent one is newer, unless the covered file is.
        let mut mtime = Time::default();
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        check_name(name)?;
        if state.scratch(parent, name).is_some() {
            return Err(FsError::Busy);
        }
        let covered = state.find(&self.stack, parent, name)?;
        if let Some(covered) = covered {
            let attr = state.attr(&self.stack, covered.ino)?;
            state.drop_unused(self, [covered]);
            match attr.kind {
                FileType::Regular => {
                    node = MknodArgs::file(attr.mode | mode & 0o111, attr.uid, attr.gid);
                    mtime = attr.mtime;
                }
                FileType::Symlink => {}
                _ => return Err(FsError::Busy),
            }
        }
        let entry = state.add_scratch(self, parent, name, &node)?;
        if covered.is_none() {
            let shown = EntryTarget { ino: entry.ino, kind: FileType::Regular };
            let scratch = Scratch { shown, covered: Covered::Nothing };
            state.set_slot(self, parent, name, Slot::Scratch(Box::new(scratch)))?;
        }
        let inode = state.upper_inode(self, entry.ino)?;
        let written = match &mut inode.body.write().data {
            UpperData::File(file) => file.write(&self.stack, &self.space, 0, content),
            _ => Err(FsError::Stale),
        };
        inode.body.write().mtime = mtime;
        match written {
            Ok(written) if written == content.len() => {}
            result => {
                state.end_loan(self, parent, name, entry.ino)?;
                state.forget(&self.space, entry.ino, 1);
                return Err(result.err().unwrap_or(FsError::NoSpace { limit: self.space.limit() }));
            }
        }
        let positions = vec![(parent, name.into())];
        state.loans.insert(entry.ino, Loan { positions, lent_end });
        state.forget(&self.space, entry.ino, 1);
        Ok(entry.ino)
    }

    /// Replaces the content of the lent file `ino`, which programs may refer to, as [`Tree::lend`]
    /// does. Returns whether it is still lent.
    ///
    /// # Errors
    /// Those of [`Tree::write`].
    pub fn lend_again(
        &self,
        ino: Ino,
        mode: u16,
        content: &[u8],
        lent_end: u64,
    ) -> Result<bool, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let Some((dir, name)) = state.loan(ino) else { return Ok(false) };
        let own = match state.image_target(self, dir, &name)? {
            Some(own) if own.kind == FileType::Regular => Some(state.attr(&self.stack, own.ino)?),
            _ => None,
        };
        let inode = state.upper_inode_unlimited(self, ino)?;
        let mut body = inode.body.write();
        if let Some(own) = own {
            (body.mode, body.uid, body.gid) = (own.mode | mode & 0o111, own.uid, own.gid);
            body.mtime = own.mtime;
        }
        let UpperData::File(file) = &mut body.data else { return Err(FsError::Stale) };
        file.truncate(&self.space, 0)?;
        let mut written = 0;
        while written < content.len() {
            written += file.write(&self.stack, &self.space, written as u64, &content[written..])?;
        }
        if let Some(loan) = state.loans.get_mut(&ino) {
            loan.lent_end = lent_end;
        }
        Ok(true)
    }

    /// Creates the regular file `name` in place of a lent file that covers nothing. The file has
    /// the number of the lent file.
    ///
    /// # Errors
    /// [`FsError::Exists`] if there is no such lent file, and those of [`Tree::mknod`].
    pub fn create_at_stand_in(
        &self,
        parent: Ino,
        name: &[u8],
        node: &MknodArgs<'_>,
    ) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        let lent = state.scratch(parent, name).map(|scratch| scratch.shown);
        let lent =
            lent.filter(|lent| node.kind == FileType::Regular && state.is_stand_in(lent.ino));
        let Some(lent) = lent else { return Err(FsError::Exists) };
        let (node, xattrs) = state.inherited(self, parent, node)?;
        let body = new_inode(&node, xattrs, Time::now()).body.into_inner();
        state.take_over_as(self, lent.ino, (parent, name.into()), body, None)?;
        state.entry(&self.stack, parent, lent)
    }

    /// Returns the other numbers of `ino` that callers refer to: those of files that lent files
    /// took the place of, and that of the file that a lent file covers.
    pub fn other_numbers(&self, ino: Ino) -> Vec<Ino> {
        let mut state = self.state.lock();
        if state.former.is_empty() && !state.loans.contains_key(&ino) {
            return Vec::new();
        }
        let current = state.current(ino);
        let mut objects = vec![current];
        if let Some((dir, name)) = state.loan(current)
            && let Ok(Some(own)) = state.image_target(self, dir, &name)
        {
            objects.push(own.ino);
        }
        let former = state.former.iter().filter(|(_, current)| objects.contains(current));
        let mut numbers: Vec<Ino> = former.map(|(former, _)| *former).collect();
        numbers.extend(objects);
        numbers.retain(|number| *number != ino && state.refs.contains_key(number));
        numbers
    }

    /// Ends the loan at `name` if the lent file `ino` is still there, so that the covered file is
    /// visible again. Returns whether it was there.
    ///
    /// # Errors
    /// [`FsError::Layer`].
    pub fn end_loan(&self, parent: Ino, name: &[u8], ino: Ino) -> Result<bool, FsError> {
        let _gate = self.gate.read();
        let mut state = self.state.lock();
        state.end_loan(self, parent, name, ino)
    }

    /// Returns whether `ino` is a lent file that was not changed and has a name.
    pub fn is_lent(&self, ino: Ino) -> bool {
        self.state.lock().loan(ino).is_some()
    }

    /// Returns whether `ino` is a lent file that covers nothing.
    pub fn is_stand_in(&self, ino: Ino) -> bool {
        self.state.lock().is_stand_in(ino)
    }

    /// Looks up the image's own object at `name`, ignoring scratch entries, and adds a reference.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], [`FsError::Stale`] or [`FsError::Layer`].
    pub fn lookup_own(&self, parent: Ino, name: &[u8]) -> Result<Option<Entry>, FsError> {
        let mut state = self.state.lock();
        let target = state.image_target(self, parent, name)?;
        if let Some(EntryTarget { kind: FileType::Directory, .. }) = target
            && let Some(LowerEntry::Directory(sources)) =
                state.find_lower(&self.stack, parent, name)?
        {
            let ino = sources[0].to_ino();
            state.cache_dir(&self.stack, parent, name, ino, sources)?;
        }
        target.map(|target| state.entry(&self.stack, parent, target)).transpose()
    }
}

impl TreeState {
    /// Returns the number of the object that `ino` stands for: `ino` itself, unless a lent file
    /// took the place of the object.
    pub(super) fn current(&self, ino: Ino) -> Ino {
        if self.former.is_empty() { ino } else { self.former.get(&ino).copied().unwrap_or(ino) }
    }

    /// Whether other numbers stand for the object `ino`.
    pub(super) fn has_former(&self, ino: Ino) -> bool {
        !self.former.is_empty() && self.former.values().any(|current| *current == ino)
    }

    /// Makes the number `before` stand for the object `after`, while it is referenced.
    fn replace_number(&mut self, before: Ino, after: Ino) {
        for current in self.former.values_mut().filter(|current| **current == before) {
            *current = after;
        }
        if self.refs.contains_key(&before) {
            self.former.insert(before, after);
        }
    }

    /// Whether `ino` is a lent file that covers nothing.
    pub(super) fn is_stand_in(&self, ino: Ino) -> bool {
        let Some(loan) = self.loans.get(&ino) else { return false };
        let mut places = loan.positions.iter();
        let scratch = places.find_map(|(dir, name)| {
            self.scratch(*dir, name).filter(|scratch| scratch.shown.ino == ino)
        });
        scratch.is_some_and(|scratch| scratch.covered == Covered::Nothing)
    }

    fn scratch(&self, dir: Ino, name: &[u8]) -> Option<Scratch> {
        match self.dirs.get(&dir)?.changes.get(name).map(|item| &item.slot) {
            Some(Slot::Scratch(scratch)) => Some(**scratch),
            _ => None,
        }
    }

    /// Returns the image's own object at `name`, ignoring scratch entries. Does not load a
    /// directory of the layers into memory.
    fn image_target(
        &mut self,
        tree: &Tree,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<EntryTarget>, FsError> {
        let Some(scratch) = self.scratch(dir, name) else {
            return self.find(&tree.stack, dir, name);
        };
        match scratch.covered {
            Covered::Nothing => Ok(None),
            Covered::Object(target) => Ok(Some(target)),
            Covered::Layers => {
                let lower = self.find_lower(&tree.stack, dir, name)?;
                Ok(lower.map(|p| EntryTarget { ino: p.ino(), kind: p.kind() }))
            }
        }
    }

    fn end_loan(&mut self, tree: &Tree, dir: Ino, name: &[u8], ino: Ino) -> Result<bool, FsError> {
        if let Some(loan) = self.loans.get_mut(&ino) {
            loan.positions.retain(|position| (position.0, &*position.1) != (dir, name));
        }
        let Some(scratch) = self.scratch(dir, name).filter(|s| s.shown.ino == ino) else {
            self.loan(ino);
            return Ok(false);
        };
        match scratch.covered {
            Covered::Layers => self.unset(tree, dir, name)?,
            Covered::Object(target) => self.set_slot(tree, dir, name, Slot::Present(target))?,
            Covered::Nothing => self.remove_slot(tree, dir, name)?,
        }
        self.drop_link(tree, scratch.shown, Time::now())?;
        self.invalidate_subdir_count(dir);
        self.loan(ino);
        Ok(true)
    }

    /// Turns the lent file `ino` into the image's own before it is changed. Does nothing for other
    /// files and for a lent file without a name.
    ///
    /// # Errors
    /// [`FsError::Busy`] if it covers a symbolic link or a file with several names.
    pub(super) fn take_over(
        &mut self,
        tree: &Tree,
        ino: Ino,
        content_from: ContentFrom,
    ) -> Result<(), FsError> {
        let Some((dir, name)) = self.loan(ino) else { return Ok(()) };
        let covered = self.image_target(tree, dir, &name)?;
        let lent = self.upper_inode_unlimited(tree, ino)?;
        let mut body = match covered {
            Some(target) if target.kind != FileType::Regular => return Err(FsError::Busy),
            Some(target) => {
                let own = self.upper_inode_unlimited(tree, target.ino)?;
                let body = own.body.read();
                if body.nlink > 1 {
                    return Err(FsError::Busy);
                }
                body.copied(tree, &own)?
            }
            None => {
                let body = lent.body.read();
                let node = MknodArgs::file(body.mode, body.uid, body.gid);
                new_inode(&node, XattrMap::new(), Time::now()).body.into_inner()
            }
        };
        if content_from == ContentFrom::Lent
            && let UpperData::File(content) = &lent.body.read().data
        {
            body.data = UpperData::File(content.clone());
        }
        self.take_over_as(tree, ino, (dir, name), body, covered)
    }

    /// Turns the lent file `ino` at a position into the image's own file with this `body`, in place
    /// of `covered`.
    fn take_over_as(
        &mut self,
        tree: &Tree,
        ino: Ino,
        (dir, name): LentPosition,
        mut body: UpperBody,
        covered: Option<EntryTarget>,
    ) -> Result<(), FsError> {
        let lent = self.upper_inode_unlimited(tree, ino)?;
        let target = EntryTarget { ino, kind: FileType::Regular };
        self.set_slot(tree, dir, &name, Slot::Present(target))?;
        {
            let mut to = lent.body.write();
            // Hard links to the lent file become names of the image's own file, too.
            body.nlink = to.nlink;
            to.release(&tree.space);
            tree.space.charge_unlimited(body.charged());
            *to = body;
        }
        let loan = self.loans.remove(&ino);
        for (dir, name) in loan.into_iter().flat_map(|loan| loan.positions) {
            if self.is_at(ino, dir, &name) {
                self.set_slot(tree, dir, &name, Slot::Present(target))?;
                self.update_after_name_change(tree, dir, Time::now())?;
            }
        }
        match covered {
            Some(covered) => {
                self.replace_number(covered.ino, ino);
                self.drop_link(tree, covered, Time::now())?;
                self.mark_dirty(dir);
                Ok(())
            }
            None => self.update_after_name_change(tree, dir, Time::now()),
        }
    }

    /// Prepares a change of the attributes of `ino`. Takes over a lent file if the change ends the
    /// loan. Returns the covered file if it must be changed too.
    pub(super) fn prepare_set_attr(
        &mut self,
        tree: &Tree,
        ino: Ino,
        set: &SetAttr,
    ) -> Result<Option<Arc<UpperInode>>, FsError> {
        let Some((dir, name)) = self.loan(ino) else { return Ok(None) };
        if let Some(size) = set.size {
            let lent_end = self.loans.get(&ino).map_or(0, |loan| loan.lent_end);
            let shown = self.attr(&tree.stack, ino)?.size;
            let keeps_lent =
                size > 0 && size >= lent_end && size <= shown.saturating_add(MAX_GROWTH);
            let content_from = if keeps_lent { ContentFrom::Lent } else { ContentFrom::Covered };
            self.take_over(tree, ino, content_from)?;
            return Ok(None);
        }
        match self.image_target(tree, dir, &name)? {
            Some(own) if own.kind != FileType::Regular => {
                let attr = self.attr(&tree.stack, ino)?;
                if set.changes(&attr) { Err(FsError::Busy) } else { Ok(None) }
            }
            Some(own) if set.changes(&self.attr(&tree.stack, own.ino)?) => {
                let inode = self.upper_inode(tree, own.ino)?;
                self.mark_dirty(dir);
                Ok(Some(inode))
            }
            Some(_) => Ok(None),
            None => {
                if set.is_touch {
                    self.take_over(tree, ino, ContentFrom::Covered)?;
                }
                Ok(None)
            }
        }
    }

    /// Returns a position of the lent file `ino`; `None` for other files and for a lent file that
    /// lost its names.
    pub(super) fn loan(&mut self, ino: Ino) -> Option<LentPosition> {
        let loan = self.loans.get(&ino)?;
        let mut positions = loan.positions.iter();
        let position = positions.find(|(dir, name)| self.is_at(ino, *dir, name)).cloned();
        if position.is_none() {
            self.loans.remove(&ino);
        }
        position
    }

    fn is_at(&self, ino: Ino, dir: Ino, name: &[u8]) -> bool {
        self.scratch(dir, name).is_some_and(|scratch| scratch.shown.ino == ino)
    }

    /// Prepares a link to the object `ino` at the free `name`. Takes over a lent file that covers
    /// something; if it covers nothing, creates the link as a scratch entry.
    pub(super) fn link_lent(
        &mut self,
        tree: &Tree,
        ino: Ino,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<Entry>, FsError> {
        let Some((lent_dir, lent_name)) = self.loan(ino) else { return Ok(None) };
        if self.image_target(tree, lent_dir, &lent_name)?.is_some() {
            self.take_over(tree, ino, ContentFrom::Covered)?;
            return Ok(None);
        }
        let shown = EntryTarget { ino, kind: FileType::Regular };
        let covered = Covered::Nothing;
        let inode = self.upper_inode_unlimited(tree, ino)?;
        self.set_slot(tree, dir, name, Slot::Scratch(Box::new(Scratch { shown, covered })))?;
        inode.body.write().nlink += 1;
        if let Some(loan) = self.loans.get_mut(&ino) {
            loan.positions.push((dir, name.into()));
        }
        self.entry(&tree.stack, dir, shown).map(Some)
    }

    /// [Takes over](Self::take_over) a lent file that covers something.
    pub(super) fn take_over_covering(&mut self, tree: &Tree, ino: Ino) -> Result<(), FsError> {
        match self.loan(ino) {
            Some((dir, name)) if self.image_target(tree, dir, &name)?.is_some() => {
                self.take_over(tree, ino, ContentFrom::Covered)
            }
            _ => Ok(()),
        }
    }

    /// Updates the position of a lent file after a rename.
    pub(super) fn update_loan_after_rename(
        &mut self,
        ino: Ino,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
    ) {
        let Some(loan) = self.loans.get_mut(&ino) else { return };
        if let Some(position) = loan.positions.iter_mut().find(|p| (p.0, &*p.1) == from) {
            *position = (to.0, to.1.into());
        }
    }
}

impl UpperBody {
    /// Returns a copy of the body of the regular file `inode`, with one name. Memory is not
    /// charged.
    fn copied(&self, tree: &Tree, inode: &UpperInode) -> Result<UpperBody, FsError> {
        let xattrs = match (&self.xattrs, inode.origin) {
            (Some(map), _) => XattrMap::clone(map),
            (None, Some(source)) => tree.stack.xattrs(source)?.into_iter().collect(),
            (None, None) => XattrMap::new(),
        };
        let data = match &self.data {
            UpperData::File(content) => UpperData::File(content.clone()),
            _ => return Err(FsError::Stale),
        };
        Ok(UpperBody {
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: 1,
            atime: self.atime,
            mtime: self.mtime,
            mtime_counts: self.mtime_counts,
            ctime: self.ctime,
            data,
            xattrs: (!xattrs.is_empty()).then(|| Box::new(xattrs)),
        })
    }
}

//! Lent files: scratch files whose changes go to the image.
//!
//! A sandbox lends a root files of its host, such as `resolv.conf`. Programs read them, and programs
//! also change them, as they would on a machine. Such a change is meant for the image.
//!
//! Invariants:
//! - A lent file shows the sandbox's content and stays out of every delta, as a scratch entry does.
//! - The first change of its content ends the loan: the inode becomes the image's own file, with the
//!   content and attributes that were covered, and then changes. If nothing was covered, it becomes
//!   an empty file with the attributes of the lent one. A write at an offset, and a cut to a size
//!   other than 0, keep the lent content instead: the program has read it, and the offset is one in it.
//! - A change of mode, owner or times is also made to the covered file, and the loan goes on. If
//!   nothing is covered, a change of mode or owner ends the loan as one of the content does; one of
//!   the times alone does not, unless the file is touched: programs set the times of all files that
//!   they find. All links to the file become names of the image's own file then.
//! - Removing, replacing or renaming a lent file does so to the covered file. A link to a lent file
//!   ends the loan, or is a scratch entry if nothing is covered: dpkg links a file before it replaces
//!   it.
//! - A lent file covers a regular file, a symbolic link or nothing. What cannot be done to a link or to
//!   a file with several names through the lent one is refused ([`FsError::Busy`]).

use std::sync::Arc;

use super::SetAttr;
use super::dir::{Beneath, Scratch, Slot, Target};
use super::inode::{Body, Data, Inode, XattrMap};
use super::names::{NewNode, check_name, new_inode};
use super::{Entry, Ino, State, Tree};
use crate::attr::{FileType, Time};
use crate::error::FsError;
use crate::stack::Pristine;

/// The content with which a lent file becomes the image's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// That of the covered file.
    Own,
    /// That of the lent file.
    Lent,
}

/// A directory and a name in it.
type Place = (Ino, Box<[u8]>);

/// The names of a lent file: the one where it was lent, and the links that programs made to it where
/// it covers nothing. All of them are scratch entries. Some may have been removed or replaced since.
#[derive(Debug)]
pub(super) struct Loan {
    places: Vec<Place>,
}

impl Tree {
    /// Lends a file with `content` at `name`, over a regular file, a symbolic link or nothing. It has
    /// the attributes of a file that it covers, and may be executed if `mode` has that bit.
    ///
    /// # Errors
    /// [`FsError::Busy`] when something else is there, or a scratch entry.
    pub fn lend(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u16,
        content: &[u8],
    ) -> Result<Ino, FsError> {
        let mut node = NewNode::file(mode, 0, 0);
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        check_name(name)?;
        if state.scratch(parent, name).is_some() {
            return Err(FsError::Busy);
        }
        if let Some(covered) = state.find(&self.stack, parent, name)? {
            let attr = state.attr(&self.stack, covered.ino)?;
            state.let_go(self, [covered]);
            match attr.kind {
                FileType::Regular => {
                    node = NewNode::file(attr.mode | mode & 0o111, attr.uid, attr.gid);
                }
                FileType::Symlink => {}
                _ => return Err(FsError::Busy),
            }
        }
        let entry = state.lay_scratch(self, parent, name, &node)?;
        let inode = state.upper(self, entry.ino)?;
        let written = match &mut inode.body.write().data {
            Data::File(file) => file.write(&self.stack, &self.space, 0, content),
            _ => Err(FsError::Stale),
        };
        match written {
            Ok(written) if written == content.len() => {}
            result => {
                state.end_loan(self, parent, name, entry.ino)?;
                state.forget(&self.space, entry.ino, 1);
                return Err(result.err().unwrap_or(FsError::NoSpace { limit: self.space.limit() }));
            }
        }
        state.loans.insert(entry.ino, Loan { places: vec![(parent, name.into())] });
        state.forget(&self.space, entry.ino, 1);
        Ok(entry.ino)
    }

    /// Ends the loan at `name` if the lent file `ino` is still there: the covered file shows again.
    /// Returns whether it was there.
    ///
    /// # Errors
    /// A layer that cannot be read.
    pub fn end_loan(&self, parent: Ino, name: &[u8], ino: Ino) -> Result<bool, FsError> {
        let _gate = self.gate.read();
        let mut state = self.state.lock();
        state.end_loan(self, parent, name, ino)
    }

    /// Whether `ino` is a lent file that has a name and was not changed.
    pub fn is_lent(&self, ino: Ino) -> bool {
        self.state.lock().loan(ino).is_some()
    }

    /// The image's own object at `name`, which a scratch entry may cover, with a reference.
    ///
    /// # Errors
    /// A layer that cannot be read; a `parent` that is not a directory.
    pub fn own(&self, parent: Ino, name: &[u8]) -> Result<Option<Entry>, FsError> {
        let mut state = self.state.lock();
        let target = state.covered(self, parent, name)?;
        if let Some(Target { kind: FileType::Directory, .. }) = target
            && let Some(Pristine::Directory(sources)) =
                state.find_pristine(&self.stack, parent, name)?
        {
            let ino = sources[0].to_ino();
            state.know_dir(&self.stack, parent, name, ino, sources)?;
        }
        target.map(|target| state.entry(&self.stack, parent, target)).transpose()
    }
}

impl State {
    fn scratch(&self, dir: Ino, name: &[u8]) -> Option<Scratch> {
        match self.dirs.get(&dir)?.changes.get(name).map(|item| &item.slot) {
            Some(Slot::Scratch(scratch)) => Some(**scratch),
            _ => None,
        }
    }

    /// The image's own object at `name`, below a scratch entry if there is one. A directory of the
    /// layers is not taken into memory.
    fn covered(&mut self, tree: &Tree, dir: Ino, name: &[u8]) -> Result<Option<Target>, FsError> {
        let Some(scratch) = self.scratch(dir, name) else {
            return self.find(&tree.stack, dir, name);
        };
        match scratch.beneath {
            Beneath::Absent => Ok(None),
            Beneath::Object(target) => Ok(Some(target)),
            Beneath::Layers => {
                let pristine = self.find_pristine(&tree.stack, dir, name)?;
                Ok(pristine.map(|p| Target { ino: p.ino(), kind: p.kind() }))
            }
        }
    }

    fn end_loan(&mut self, tree: &Tree, dir: Ino, name: &[u8], ino: Ino) -> Result<bool, FsError> {
        if let Some(loan) = self.loans.get_mut(&ino) {
            loan.places.retain(|place| (place.0, &*place.1) != (dir, name));
        }
        let Some(scratch) = self.scratch(dir, name).filter(|s| s.shown.ino == ino) else {
            self.loan(ino);
            return Ok(false);
        };
        match scratch.beneath {
            Beneath::Layers => self.unset(tree, dir, name)?,
            Beneath::Object(target) => self.put(tree, dir, name, Slot::Present(target))?,
            Beneath::Absent => self.lose_name(tree, dir, name)?,
        }
        self.drop_name(tree, scratch.shown, Time::now())?;
        self.recount(dir);
        self.loan(ino);
        Ok(true)
    }

    /// Makes the lent file `ino` the image's own, before it is changed. Does nothing to any other
    /// file, nor to a lent file without a name.
    ///
    /// # Errors
    /// [`FsError::Busy`] when it covers a file with several names, or a link.
    pub(super) fn take_over(&mut self, tree: &Tree, ino: Ino, keep: Keep) -> Result<(), FsError> {
        let Some((dir, name)) = self.loan(ino) else { return Ok(()) };
        let covered = self.covered(tree, dir, &name)?;
        let lent = self.upper_always(tree, ino)?;
        let mut body = match covered {
            Some(target) if target.kind != FileType::Regular => return Err(FsError::Busy),
            Some(target) => {
                let own = self.upper_always(tree, target.ino)?;
                let body = own.body.read();
                if body.nlink > 1 {
                    return Err(FsError::Busy);
                }
                body.copied(tree, &own)?
            }
            None => {
                let body = lent.body.read();
                let node = NewNode::file(body.mode, body.uid, body.gid);
                new_inode(&node, XattrMap::new(), Time::now()).body.into_inner()
            }
        };
        let target = Target { ino, kind: FileType::Regular };
        self.put(tree, dir, &name, Slot::Present(target))?;
        {
            let mut to = lent.body.write();
            // The links to it become names of the image's own file, too.
            body.nlink = to.nlink;
            if keep == Keep::Lent
                && let Data::File(content) = &to.data
            {
                body.data = Data::File(content.clone());
            }
            to.release(&tree.space);
            tree.space.charge_always(body.charged());
            *to = body;
        }
        let loan = self.loans.remove(&ino);
        for (dir, name) in loan.into_iter().flat_map(|loan| loan.places) {
            if self.is_place_of(ino, dir, &name) {
                self.put(tree, dir, &name, Slot::Present(target))?;
                self.changed_names(tree, dir, Time::now())?;
            }
        }
        match covered {
            Some(covered) => {
                self.drop_name(tree, covered, Time::now())?;
                self.touch(dir);
                Ok(())
            }
            None => self.changed_names(tree, dir, Time::now()),
        }
    }

    /// Prepares a change of attributes of `ino`: takes over a lent file whose loan the change ends.
    /// Returns the covered file that has to change too. A size beyond the end of the lent content
    /// becomes one beyond the end of the covered content, by as much; a smaller one is one of the lent
    /// content.
    pub(super) fn pass_attributes(
        &mut self,
        tree: &Tree,
        ino: Ino,
        set: &mut SetAttr,
    ) -> Result<Option<Arc<Inode>>, FsError> {
        let Some((dir, name)) = self.loan(ino) else { return Ok(None) };
        if let Some(size) = &mut set.size {
            let lent = self.attr(&tree.stack, ino)?.size;
            let keep = if (1..=lent).contains(size) { Keep::Lent } else { Keep::Own };
            self.take_over(tree, ino, keep)?;
            if let Some(beyond) = size.checked_sub(lent).filter(|beyond| *beyond > 0) {
                *size = self.attr(&tree.stack, ino)?.size + beyond;
            }
            return Ok(None);
        }
        match self.covered(tree, dir, &name)? {
            Some(own) if own.kind != FileType::Regular => {
                let attr = self.attr(&tree.stack, ino)?;
                if set.changes(&attr) { Err(FsError::Busy) } else { Ok(None) }
            }
            Some(own) if set.changes(&self.attr(&tree.stack, own.ino)?) => {
                let inode = self.upper(tree, own.ino)?;
                self.touch(dir);
                Ok(Some(inode))
            }
            Some(_) => Ok(None),
            None => {
                let attr = self.attr(&tree.stack, ino)?;
                let times = SetAttr { mtime: None, atime: None, ..*set };
                if set.is_touch || times.changes(&attr) {
                    self.take_over(tree, ino, Keep::Own)?;
                }
                Ok(None)
            }
        }
    }

    /// Where the lent file `ino` is; `None` for any other file, and for one that lost its names.
    fn loan(&mut self, ino: Ino) -> Option<Place> {
        let loan = self.loans.get(&ino)?;
        let place = loan.places.iter().find(|(dir, name)| self.is_place_of(ino, *dir, name));
        let place = place.cloned();
        if place.is_none() {
            self.loans.remove(&ino);
        }
        place
    }

    fn is_place_of(&self, ino: Ino, dir: Ino, name: &[u8]) -> bool {
        self.scratch(dir, name).is_some_and(|scratch| scratch.shown.ino == ino)
    }

    /// Prepares a link at the free `name` to the object `ino`: takes over a lent file. If it covers
    /// nothing, the link is made here, as a scratch entry.
    pub(super) fn link_lent(
        &mut self,
        tree: &Tree,
        ino: Ino,
        dir: Ino,
        name: &[u8],
    ) -> Result<Option<Entry>, FsError> {
        let Some((loan_dir, loan_name)) = self.loan(ino) else { return Ok(None) };
        if self.covered(tree, loan_dir, &loan_name)?.is_some() {
            self.take_over(tree, ino, Keep::Own)?;
            return Ok(None);
        }
        let shown = Target { ino, kind: FileType::Regular };
        let is_whiteout = self.dir(&tree.stack, dir)?.changes.get(name).is_some();
        let beneath = if is_whiteout { Beneath::Absent } else { Beneath::Layers };
        let inode = self.upper_always(tree, ino)?;
        self.put(tree, dir, name, Slot::Scratch(Box::new(Scratch { shown, beneath })))?;
        inode.body.write().nlink += 1;
        if let Some(loan) = self.loans.get_mut(&ino) {
            loan.places.push((dir, name.into()));
        }
        self.entry(&tree.stack, dir, shown).map(Some)
    }

    /// [Takes over](Self::take_over) a lent file that covers a file of the image.
    pub(super) fn take_over_covering(&mut self, tree: &Tree, ino: Ino) -> Result<(), FsError> {
        match self.loan(ino) {
            Some((dir, name)) if self.covered(tree, dir, &name)?.is_some() => {
                self.take_over(tree, ino, Keep::Own)
            }
            _ => Ok(()),
        }
    }

    /// Keeps the place of a lent file that was renamed.
    pub(super) fn loan_moved(&mut self, ino: Ino, from: (Ino, &[u8]), to: (Ino, &[u8])) {
        let Some(loan) = self.loans.get_mut(&ino) else { return };
        if let Some(place) = loan.places.iter_mut().find(|place| (place.0, &*place.1) == from) {
            *place = (to.0, to.1.into());
        }
    }
}

impl Body {
    /// A copy of the body of the regular file `inode`, with one name. It is not charged.
    fn copied(&self, tree: &Tree, inode: &Inode) -> Result<Body, FsError> {
        let xattrs = match (&self.xattrs, inode.origin) {
            (Some(map), _) => XattrMap::clone(map),
            (None, Some(source)) => tree.stack.xattrs(source)?.into_iter().collect(),
            (None, None) => XattrMap::new(),
        };
        let data = match &self.data {
            Data::File(content) => Data::File(content.clone()),
            _ => return Err(FsError::Stale),
        };
        Ok(Body {
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

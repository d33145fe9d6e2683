//! The ids of the processes that make requests, and the checks of their rights that the kernel
//! cannot do.
//!
//! Where the kernel knows only one id, it takes each process for root and every object for root's,
//! and allows everything. The daemon then checks requests that change names and attributes. It
//! cannot check the opening of files, which the kernel does not send.

use std::sync::Arc;

use fs_model::{Attr, FileType, Ino, Tree, acl};
use fuser::{Errno, Request};

use super::copies::CopiedFiles;
use super::setcap::CAPABILITY;
use super::view::OwnedView;
use crate::sandbox::{CAP_SETFCAP, CAP_SYS_ADMIN, CredentialTable, EXECUTE, READ, WRITE};

/// The bit of directories in which only owners remove entries.
const STICKY: u16 = 0o1000;

/// The processes that make requests.
#[derive(Debug)]
pub(super) struct Callers {
    view: OwnedView,
    /// The credentials of processes, if the kernel does not know them.
    credentials: Option<Arc<CredentialTable>>,
    /// Whether hard links to files of other users are restricted.
    protects_hard_links: bool,
    /// The copies of files of the host that the processes make.
    pub(super) copies: Arc<CopiedFiles>,
}

impl Callers {
    pub(super) fn new(
        view: OwnedView,
        credentials: Option<Arc<CredentialTable>>,
        copies: Arc<CopiedFiles>,
    ) -> Self {
        // The kernel's own check for hard links finds that each process owns all files.
        let protects_hard_links = credentials.is_some()
            && std::fs::read("/proc/sys/fs/protected_hardlinks")
                .is_ok_and(|value| value.trim_ascii() != b"0");
        Callers { view, credentials, protects_hard_links, copies }
    }

    /// Returns the real user and group that own a new file.
    pub(super) fn owner(&self, request: &Request) -> (u32, u32) {
        match &self.credentials {
            Some(table) => table.file_owner(request.pid()),
            None => self.view.real_owner(request.uid(), request.gid()),
        }
    }

    /// Returns the real group.
    pub(super) fn group(&self, request: &Request) -> u32 {
        self.owner(request).1
    }

    /// Whether the process runs as root.
    pub(super) fn is_root(&self, request: &Request) -> bool {
        match &self.credentials {
            Some(table) => table.file_owner(request.pid()).0 == 0,
            None => request.uid() == 0,
        }
    }

    /// Checks the right to add entries to a directory.
    pub(super) fn may_add(
        &self,
        request: &Request,
        tree: &Tree,
        directory: Ino,
    ) -> Result<(), Errno> {
        match &self.credentials {
            Some(table) => may_change(table, request.pid(), tree, directory).map(drop),
            None => Ok(()),
        }
    }

    /// Checks the right to make a hard link to a file (`may_linkat` in `fs/namei.c`).
    pub(super) fn may_link(
        &self,
        request: &Request,
        tree: &Tree,
        object: Ino,
    ) -> Result<(), Errno> {
        let Some(table) = self.credentials.as_ref().filter(|table| !table.is_unused()) else {
            return Ok(());
        };
        let Ok(attr) = tree.attr(object) else { return Ok(()) };
        let (pid, mode) = (request.pid(), attr.st_mode());
        let runs_as_group = libc::S_ISGID | libc::S_IXGRP;
        let is_safe = attr.kind == FileType::Regular
            && mode & libc::S_ISUID == 0
            && mode & runs_as_group != runs_as_group
            && table.may_access(pid, mode, (attr.uid, attr.gid), READ | WRITE);
        match is_safe || !self.protects_hard_links || table.owns(pid, attr.uid) {
            true => Ok(()),
            false => Err(Errno::EPERM),
        }
    }

    /// Checks the right to remove an entry from a directory.
    pub(super) fn may_remove(
        &self,
        request: &Request,
        tree: &Tree,
        directory: Ino,
        name: &[u8],
    ) -> Result<(), Errno> {
        let Some(table) = &self.credentials else { return Ok(()) };
        let pid = request.pid();
        let Some(attr) = may_change(table, pid, tree, directory)? else { return Ok(()) };
        if attr.mode & STICKY == 0 || table.owns(pid, attr.uid) {
            return Ok(());
        }
        // The call itself reports a missing entry.
        let Ok(entry) = tree.lookup(directory, name) else { return Ok(()) };
        tree.forget(entry.ino, 1);
        if table.owns(pid, entry.attr.uid) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// Checks the right to change attributes of an object: that of its owner, or else, if
    /// `by_writers`, to write it.
    pub(super) fn may_set(
        &self,
        request: &Request,
        tree: &Tree,
        object: Ino,
        by_writers: bool,
    ) -> Result<(), Errno> {
        let Some(table) = self.credentials.as_ref().filter(|table| !table.is_unused()) else {
            return Ok(());
        };
        let Ok(attr) = tree.attr(object) else { return Ok(()) };
        let pid = request.pid();
        match by_writers {
            true => may_write(table, pid, &attr),
            false if table.owns(pid, attr.uid) => Ok(()),
            false => Err(Errno::EPERM),
        }
    }

    /// Checks the right to set an extended attribute, or to remove it (`xattr_permission` in
    /// `fs/xattr.c`, `cap_inode_setxattr` in `security/commoncap.c`, `vfs_set_acl` in
    /// `fs/posix_acl.c`).
    pub(super) fn may_set_xattr(
        &self,
        request: &Request,
        tree: &Tree,
        object: Ino,
        name: &[u8],
        removes: bool,
    ) -> Result<(), Errno> {
        let Some(table) = self.credentials.as_ref().filter(|table| !table.is_unused()) else {
            return Ok(());
        };
        let Ok(attr) = tree.attr(object) else { return Ok(()) };
        let pid = request.pid();
        let is_allowed = match name {
            // The kernel removes it when a process writes the file, in the name of this process.
            CAPABILITY if removes && may_write(table, pid, &attr).is_ok() => true,
            CAPABILITY => table.has(pid, CAP_SETFCAP),
            name if acl::is_acl(name) => table.owns(pid, attr.uid),
            name if name.starts_with(b"user.") => {
                let is_sticky = attr.kind == FileType::Directory && attr.mode & STICKY != 0;
                if is_sticky && !table.owns(pid, attr.uid) {
                    return Err(Errno::EPERM);
                }
                return may_write(table, pid, &attr);
            }
            _ => table.has(pid, CAP_SYS_ADMIN),
        };
        if is_allowed { Ok(()) } else { Err(Errno::EPERM) }
    }
}

fn may_write(table: &CredentialTable, pid: u32, attr: &Attr) -> Result<(), Errno> {
    match table.may_access(pid, attr.st_mode(), (attr.uid, attr.gid), WRITE) {
        true => Ok(()),
        false => Err(Errno::EACCES),
    }
}

/// Checks the right to change the entries of a directory. Returns its attributes, unless all
/// processes are root.
fn may_change(
    table: &CredentialTable,
    pid: u32,
    tree: &Tree,
    directory: Ino,
) -> Result<Option<Attr>, Errno> {
    if table.is_unused() {
        return Ok(None);
    }
    let Ok(attr) = tree.attr(directory) else { return Ok(None) };
    match table.may_access(pid, attr.st_mode(), (attr.uid, attr.gid), WRITE | EXECUTE) {
        true => Ok(Some(attr)),
        false => Err(Errno::EACCES),
    }
}
